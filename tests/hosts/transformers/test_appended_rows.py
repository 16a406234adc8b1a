"""Rows of the vision aggregator behind each image, in families of transformers: their values, places and counts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

import pvit_ext
from pvit_ext import ImageFeatures, Query
from pvit_ext.hosts.base import ImageViews
from pvit_ext.hosts.transformers.keys import HOST_KEY
from pvit_ext.prompt import ROW_PLACEHOLDER
from pvit_ext.regions.region import RegionError
from tests.hosts.tiny_hosts import BOX, MIXED, OTHER, TALL, WIDE, Parts, batch_of, logits, with_labels
from tests.hosts.transformers.inputs import (
    ALL,
    IMAGES,
    QUESTIONS,
    REGIONS,
    plain_batch,
    region_batch,
    second_turn,
    with_regions,
)
from tests.hosts.transformers.test_generation import GREEDY, cache_of
from tests.hosts.transformers.zoo import prompt

FAST = ("llava", "llava_next", "qwen2_5_vl")
EACH = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in ALL]
SHARES = [
    "llava",
    *(pytest.param(one, marks=pytest.mark.slow) for one in ("llava_siglip", "llava_onevision", "internvl")),
]
_MADE: dict[str, Parts] = {}


def parts_of(name: str) -> Parts:
    """The tiny model with an aggregator that appends its rows; made once, and left as it was."""
    if name not in _MADE:
        depths = "0.7,0.4,0.1" if name == "glm4v" else "0.95,0.74,0.49"
        model, processor = with_regions(name, lion_aggregator="appended", lion_aggregator_depths=depths)
        rows, words = model.get_input_embeddings().num_embeddings, len(processor.tokenizer)
        model.generation_config.suppress_tokens = [0, 1, 2, *range(3, 8), *range(words - 2, rows)]
        _MADE[name] = Parts(model, processor.tokenizer, processor)
    return _MADE[name]


@pytest.fixture(params=EACH)
def parts(request: pytest.FixtureRequest) -> Parts:
    return parts_of(request.param)


@pytest.fixture
def llava() -> Parts:
    return parts_of("llava")


def queries_of(parts: Parts) -> list[Query]:
    """Several images a prompt, none, several turns; PaliGemma's processor refuses a text alone."""
    return [one for one in MIXED if one.image is not None or "PaliGemma" not in type(parts.model).__name__]


def row_id(parts: Parts) -> int:
    found: int = parts.model.base_model.region_host.facts.row_token_id
    return found


@contextmanager
def embedded(model: Any) -> Iterator[list[Tensor]]:
    """Embeddings that the language model gets."""
    found: list[Tensor] = []
    language = model.base_model.language_model
    hook = language.register_forward_pre_hook(
        lambda _module, _args, given: found.append(given["inputs_embeds"]), with_kwargs=True
    )
    try:
        yield found
    finally:
        hook.remove()


@torch.no_grad()
def by_hand(model: Any, batch: dict[str, Any]) -> list[Tensor]:
    """Rows (R, D) of each image of a batch with regions: of the whole view's cells, by the table that regions read."""
    host, part = model.base_model.region_host, model.region_aggregator
    inputs = {key: value for key, value in batch.items() if key != "input_ids"}
    views = [ImageViews(*one) for one in batch["region_views"]]
    hidden = host.run_tower(dict(inputs))
    found = []
    for table in host.cells(inputs, hidden, views, False):
        layers = [hidden[layer].flatten(0, -2)[table.flatten()] for layer in part.layers]  # (cells, C)
        each = part(layers, torch.tensor([0, table.numel()]))  # (cells, D)
        side = merged_side(model)
        squares = F.avg_pool2d(each.T.view(1, -1, *table.shape), side)  # (1, D, rows, columns)
        found.append(squares.flatten(2)[0].T)
    return found


def merged_side(model: Any) -> int:
    """Cells of the tower in a row of the language model, in each direction."""
    config = model.config
    if config.model_type == "gemma3":
        return (
            config.vision_config.image_size // config.vision_config.patch_size // math.isqrt(config.mm_tokens_per_image)
        )
    if config.model_type == "internvl":
        return round(1 / config.downsample_ratio)
    return int(getattr(config, "spatial_merge_size", getattr(config.vision_config, "spatial_merge_size", 1)))


def test_rows_stand_behind_their_image_and_are_those_of_its_whole_view(parts: Parts) -> None:
    model, processor = parts.model, parts.processor
    batch = region_batch(model, processor)
    wanted = by_hand(model, batch)
    with embedded(model) as seen:
        logits(model, batch)
    ends = {processor.tokenizer.convert_tokens_to_ids(one) for one in ("<|vision_end|>", "[IMG_END]", "</img>", "<s>")}
    ends |= {processor.tokenizer.convert_tokens_to_ids("<end_of_image>"), model.config.image_token_id}
    for ids, embeds, rows in zip(batch["input_ids"], seen[0], wanted, strict=True):
        places = (ids == row_id(parts)).nonzero().flatten()
        torch.testing.assert_close(embeds[places], rows, atol=1e-5, rtol=1e-4)
        assert len(places) == len(rows) == int(places[-1] - places[0]) + 1
        assert int(ids[places[0] - 1]) in ends
        assert int((ids == model.config.image_token_id).nonzero()[-1]) < int(places[0])


def test_a_mixed_batch_equals_each_sample_alone(parts: Parts) -> None:
    queries = queries_of(parts)
    together = logits(parts.model, batch_of(parts, queries))[:, -1]
    alone = torch.cat([logits(parts.model, batch_of(parts, [one]))[:, -1] for one in queries])
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)
    part = parts.model.region_aggregator
    with torch.no_grad():
        part.rows.bias += 1
        changed = logits(parts.model, batch_of(parts, queries))[:, -1] != together
        part.rows.bias -= 1
    assert changed.any(1).tolist() == [one.image is not None for one in queries]


@pytest.mark.parametrize("beams", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_answers_are_the_same_alone_in_a_batch_and_without_a_cache(parts: Parts, beams: int) -> None:
    queries, options = queries_of(parts)[-3:], dict[str, Any](max_new_tokens=3, num_beams=beams)
    cached, uncached = (pvit_ext.ask(*parts, queries, use_cache=cache, **options) for cache in (True, False))
    assert cached == uncached == [pvit_ext.ask(*parts, [one], **options)[0] for one in queries]


@pytest.mark.slow
def test_without_regions_too(parts: Parts) -> None:
    batch = plain_batch(parts.processor)
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": 2, "output_scores": True}
    one, other = (
        parts.model.generate(**batch, **options, use_cache=use, return_dict_in_generate=True) for use in (True, False)
    )
    torch.testing.assert_close(one.sequences_scores, other.sequences_scores, atol=1e-5, rtol=0)
    alone = plain_batch(parts.processor, ["what is in the"], IMAGES[:1])
    torch.testing.assert_close(logits(parts.model, alone)[0, -1], logits(parts.model, batch)[0, -1], atol=2e-5, rtol=0)


@pytest.mark.slow
def test_a_second_turn_on_the_cache_of_the_first(parts: Parts) -> None:
    model, processor = parts.model, parts.processor
    batch = region_batch(model, processor, QUESTIONS[:1], [REGIONS[0]], IMAGES[:1])
    first = model.generate(**batch, **GREEDY, eos_token_id=None, return_dict_in_generate=True)
    second = second_turn(model, processor, batch, first.sequences, IMAGES[0])
    answer = model.generate(**second, **GREEDY, eos_token_id=None)
    assert torch.equal(model.generate(**second, **GREEDY, eos_token_id=None, **cache_of(first)), answer)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAST, "qwen3_vl"])
def test_compiled_decoding_looks_for_no_rows(name: str) -> None:
    torch._dynamo.reset()
    model, _, processor = parts_of(name)
    batch = region_batch(model, processor)
    compiled = transformers.CompileConfig(backend="aot_eager", fullgraph=True)
    compiled._compile_all_devices = True  # type: ignore[assignment]
    options = {**GREEDY, "cache_implementation": "static", "compile_config": compiled}
    assert torch.equal(model.generate(**batch, **options), model.generate(**batch, **GREEDY))


@pytest.mark.parametrize("name", SHARES)
def test_questions_about_one_image_share_its_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The beginning that is read once holds them; an image of the same size has others."""
    parts = parts_of(name)
    words = "what is <region> ?", "where is a cat and <region> ?", "and <region> ?", "which is larger ?"
    queries = [Query(image, text, [box] * text.count("<region>"))
               for image, box in ((TALL, OTHER), (TALL.rotate(180), BOX)) for text in words]  # fmt: skip
    read: list[int] = []
    layer = parts.model.base_model.language_model.layers[0]
    hook = layer.register_forward_pre_hook(lambda _, given: read.append(given[0].shape[0] * given[0].shape[1]))
    found = {}
    for features in (None, ImageFeatures(1 << 30)):
        read.clear()
        answers = pvit_ext.ask(*parts, queries, max_new_tokens=3, batch_size=4, features=features)
        scores = pvit_ext.score(*parts, queries, [["a dog", "a cat"]] * 8, batch_size=4, features=features)
        found[features is None] = answers, [one.log_likelihood for own in scores for one in own], sum(read)
    hook.remove()
    assert found[True][0] == found[False][0]
    assert found[False][1] == pytest.approx(found[True][1], abs=1e-4)
    assert found[False][2] < found[True][2] / 1.5


@pytest.mark.parametrize("name", ["llava", pytest.param("qwen3_vl", marks=pytest.mark.slow)])
def test_it_learns(name: str) -> None:
    parts = parts_of(name)
    parts.model.zero_grad()
    parts.model.train()(**with_labels(batch_of(parts, queries_of(parts)))).loss.backward()
    parts.model.eval()
    grads = [one.grad for one in parts.model.region_aggregator.parameters()]
    assert all(one is not None and one.any() for one in grads[-2:])
    assert all(one is not None for one in grads)


def test_what_truncation_cuts_names_the_sample(llava: Parts) -> None:
    texts = [prompt(llava.processor, text) for text in ("what is in the", "where ?")]
    given = {"images": [[one] for one in IMAGES], "text": texts, "truncation": True}
    with pytest.raises(
        RegionError, match=r"sample 0: truncation leaves 4 of the 16 positions of its image\(s\) for rows"
    ):
        llava.processor(**given, max_length=20, truncation_side="right")
    assert (llava.processor(**given, max_length=36)["input_ids"][0].count(row_id(llava))) == 16


def test_every_count_of_a_prompt_has_them(llava: Parts) -> None:
    from pvit_ext.hosts.transformers.chat import TransformersChat

    chat, query = TransformersChat(*llava[::2], None, None), Query(WIDE, "where ?")
    batch = chat.batch([query], [chat.prompt(query, "one")])
    assert chat.positions(batch) == [batch["input_ids"].shape[1]] == [16 + 16 + 6]
    text = llava.model.config.get_text_config()
    most, text.max_position_embeddings = text.max_position_embeddings, 37
    with pytest.raises(RegionError, match="one: its prompt takes 38 positions"):
        chat.batch([query], [chat.prompt(query, "one")])
    text.max_position_embeddings = most


def test_prompts_and_images_that_do_not_fit_are_refused(llava: Parts) -> None:
    model, processor, here = llava.model, llava.processor, row_id(llava)
    batch = plain_batch(processor)
    without = {key: value for key, value in batch.items() if key != "pixel_values"}
    with pytest.raises(
        RegionError, match=r"sample 0: the prompt has 16 position\(s\) for the vision aggregator's rows"
    ):
        model(**without)
    none = {**batch, "input_ids": batch["input_ids"].masked_fill(batch["input_ids"] == here, 9)}
    with pytest.raises(RegionError, match="images were given, but the prompts have no position"):
        model(**none)
    cut = {key: value[:, :-6] if key != "pixel_values" else value for key, value in batch.items()}
    with pytest.raises(RegionError, match=r"the prompts have \[14, 16\] positions"):
        model(**cut)
    with pytest.raises(RegionError, match="pass these, not inputs_embeds"):
        model(inputs_embeds=torch.zeros(1, 40, 64), pixel_values=batch["pixel_values"])
    with pytest.raises(RegionError, match=f"{ROW_PLACEHOLDER} stands in a text"):
        processor(images=IMAGES[:1], text=[f"<image> {ROW_PLACEHOLDER} what"])
    with pytest.raises(RegionError, match="no text shows one: write <image>"):
        processor(images=IMAGES[:1], text=["what"])
    with pytest.raises(RegionError, match="prefill_chunk_size splits the prompt"):
        model.generate(**batch, prefill_chunk_size=4)
    facts = getattr(model.config, HOST_KEY)
    facts.pop("row_token_id")
    with pytest.raises(ValueError, match="its config names no id of <image_row>: attach it with its processor"):
        model(**batch)
    facts["row_token_id"] = here


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "internvl"])
def test_fewer_crops_than_the_prompts_show_are_named(name: str) -> None:
    one = parts_of(name)
    batch = plain_batch(one.processor)
    with pytest.raises(RegionError, match=r"but the images given have 1 crop\(s\)"):
        one.model(**{**batch, "pixel_values": batch["pixel_values"][:1]})


def test_a_processor_and_a_model_that_do_not_know_the_positions_are_refused() -> None:
    model, processor = with_regions("llava")
    with pytest.raises(ValueError, match=r"prompts need <image_row>, which they had no use for before: .*processor="):
        pvit_ext.attach(model, pvit_ext.RegionConfig("replay", lion_aggregator="appended"))
    assert model.region_config.lion_aggregator is None  # as it was
    processor.pvit_regions = parts_of("llava").processor.pvit_regions
    with pytest.raises(RegionError, match="the processor's tokenizer does not know <image_row>"):
        processor(images=IMAGES[:1], text=["<image> what"])
