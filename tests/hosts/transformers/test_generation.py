"""``generate(regions=...)`` on transformers' own models."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pvit_ext.regions.region import Region, RegionError
from tests.hosts.transformers.inputs import (
    ALL_BUT_TWO_SLOW,
    EVERY,
    IMAGES,
    QUESTIONS,
    REGIONS,
    SPECIALS,
    region_batch,
    second_turn,
    with_regions,
)

GREEDY = {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": SPECIALS}
COMPILED = ("llava_next", "qwen2_5_vl", "qwen3_vl")
"""Further families, in the slow lane."""


def cache_of(out: Any) -> dict[str, Any]:
    """The cache of a generation, under the name that this version of transformers has for it."""
    name = "cache" if getattr(out, "cache", None) is not None else "past_key_values"
    return {name: getattr(out, name)}


@pytest.mark.parametrize("name", EVERY)
def test_cache_static_cache_and_none_agree(name: str) -> None:
    model, processor = with_regions(name)
    batch = region_batch(model, processor)
    answer = model.generate(**batch, **GREEDY)
    assert torch.equal(answer, model.generate(**batch, **GREEDY, use_cache=False))
    assert torch.equal(answer, model.generate(**batch, **GREEDY, cache_implementation="static"))
    order = {**batch, "regions": [[batch["regions"][0][0]], batch["regions"][1][::-1]]}
    first = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
    given, swapped = (model.generate(**one, **first).logits[0] for one in (batch, order))
    assert torch.equal(given[0], swapped[0])
    assert not torch.equal(given[1], swapped[1])


@pytest.mark.parametrize("name", ALL_BUT_TWO_SLOW)
def test_beams_and_several_answers(name: str) -> None:
    model, processor = with_regions(name)
    batch = region_batch(model, processor)
    options = {
        **GREEDY,
        "num_beams": 3,
        "num_return_sequences": 2,
        "output_scores": True,
        "return_dict_in_generate": True,
    }
    cached, plain = model.generate(**batch, **options), model.generate(**batch, **options, use_cache=False)
    torch.testing.assert_close(cached.sequences_scores, plain.sequences_scores, atol=1e-5, rtol=0)
    assert cached.sequences.shape[0] == 4
    logits = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
    alone = model.generate(**batch, **logits).logits[0]
    several = model.generate(**batch, **logits, do_sample=True, num_return_sequences=3).logits[0]
    torch.testing.assert_close(several.view(2, 3, -1), alone[:, None].expand(2, 3, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", EVERY)
def test_alone_and_in_a_padded_batch(name: str) -> None:
    model, processor = with_regions(name)
    both = region_batch(model, processor)
    for sample in (0, 1):
        alone = region_batch(model, processor, *([part[sample]] for part in (QUESTIONS, REGIONS, IMAGES)))
        with torch.no_grad():
            one, among = model(**alone).logits[0], model(**both).logits[sample]
        torch.testing.assert_close(among[-len(one) :], one, atol=2e-5, rtol=0)
        assert torch.equal(model.generate(**alone, **GREEDY)[0, -5:], model.generate(**both, **GREEDY)[sample, -5:])


@pytest.mark.parametrize("name", EVERY)
def test_a_second_turn_on_the_cache_of_the_first(name: str) -> None:
    model, processor = with_regions(name)
    image, regions = IMAGES[:1], [[Region.box(10, 20, 40, 50)]]
    options = {**GREEDY, "eos_token_id": None}
    batch = region_batch(model, processor, QUESTIONS[:1], regions, image)
    first = model.generate(**batch, **options, return_dict_in_generate=True)
    second = second_turn(model, processor, batch, first.sequences, image[0])
    continued = model.generate(**second, **options, **cache_of(first))
    assert torch.equal(continued, model.generate(**second, **options))


def test_the_tower_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = with_regions("llava_next")
    runs = []
    model.model.vision_tower.register_forward_hook(lambda *_: runs.append(1))
    batch = region_batch(model, processor)
    model(**batch)
    model.generate(**batch, **GREEDY, num_beams=2)
    model.train()(**batch, labels=batch["input_ids"]).loss.backward()
    assert len(runs) == 3


def test_unknown_keywords_are_refused_as_by_stock() -> None:
    model, processor = with_regions("llava")
    with pytest.raises(ValueError, match="regoins"):
        model.generate(**region_batch(model, processor), regoins=[])


@pytest.mark.parametrize("option", ["prefill_chunk_size", "assistant_model"])
def test_options_without_regions_are_refused(option: str) -> None:
    model, processor = with_regions("llava")
    with pytest.raises(RegionError, match=option):
        model.generate(**region_batch(model, processor), **{option: 4})


def test_prompt_lookup_gives_the_same_answer() -> None:
    model, processor = with_regions("llava")
    alone = region_batch(model, processor, QUESTIONS[:1], REGIONS[:1], IMAGES[:1])
    want = model.generate(**alone, **GREEDY)
    assert torch.equal(model.generate(**alone, **GREEDY, prompt_lookup_num_tokens=3), want)


def test_the_model_never_writes_a_placeholder() -> None:
    model, processor = with_regions("llava")
    token = model.model.region_host.token_id
    model.lm_head.weight.data[:] = 0
    bias = torch.zeros(model.lm_head.out_features)
    bias[token] = 9
    model.lm_head.bias = torch.nn.Parameter(bias)
    assert token in model.generate(**region_batch(model, processor, ["what"], [None], IMAGES[:1]), max_new_tokens=3)
    batch = region_batch(model, processor)
    written = model.generate(**batch, max_new_tokens=3)[:, batch["input_ids"].shape[1] :]
    assert token not in written


@pytest.mark.parametrize("name", [pytest.param(one, marks=pytest.mark.slow) for one in ("llava", *COMPILED)])
def test_compiled_decoding_has_the_graphs_of_stock(name: str) -> None:
    """One graph without breaks for the steps after the prompt, and the same answer."""
    from transformers import CompileConfig

    model, processor = with_regions(name)
    batch = region_batch(model, processor)
    compiled = CompileConfig(backend="aot_eager", fullgraph=True)
    compiled._compile_all_devices = True
    plain = model.generate(**batch, **GREEDY)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert torch.equal(plain, model.generate(**batch, **GREEDY, cache_implementation="static", compile_config=compiled))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert not torch._dynamo.utils.counters["graph_break"]
