"""LION's adapters in the feed-forward layers of both hosts: each sample takes the route of its own task."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pvit_ext
from pvit_ext import Query, RegionError
from pvit_ext.adapters.lion.feed_forward import mixtures_in
from pvit_ext.adapters.lora import find_all_linear_names
from pvit_ext.cli.parser import main
from pvit_ext.tokens.serialization import load_region_modules, save_region_modules
from pvit_ext.tools.quantized_base import logits_of_text
from pvit_ext.tools.swap import swap_encoder
from pvit_ext.training.plan.activations import Precision, count_activations
from tests.adapters.models import learned
from tests.hosts.tiny_hosts import (
    FEW,
    MIXED,
    OSPREY,
    PLAIN,
    WIDE,
    Parts,
    TinyHost,
    batch_of,
    load,
    logits,
    save,
    with_labels,
)

slow = pytest.mark.slow
LION = replace(OSPREY, lion_adapters=4)
QUERIES = [MIXED[0], PLAIN[1], MIXED[2]]  # the second without regions
FAST = ("llava/llama", "transformers/llava")
SLOW = [name for name in (getattr(one, "values", [one])[0] for one in FEW) if name not in FAST]
FAMILIES = [*(one for one in FEW if one in FAST), *(pytest.param(one, marks=slow) for one in [*SLOW, "llava/mpt"])]
pytestmark = pytest.mark.parametrize("host", FAMILIES, indirect=True)


def moved(model: Any) -> Any:
    """Give every tensor of the mixtures other values."""
    generator = torch.Generator().manual_seed(0)
    for parameter in (one for mixture in mixtures_in(model) for one in mixture.parameters()):
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def with_adapters(host: TinyHost) -> Parts:
    parts = host.attached(LION)
    moved(parts.model)
    return parts


def test_changes_no_bit_at_the_start(host: TinyHost) -> None:
    host.folder()
    without, given = host.attached(OSPREY), host.attached(LION)
    batch = batch_of(given, QUERIES)
    assert batch["tasks"].tolist() == [0, 1, 0]
    assert torch.equal(logits(given.model, batch), logits(without.model, batch_of(without, QUERIES)))
    moved(given.model)
    assert not torch.equal(logits(given.model, batch), logits(without.model, batch_of(without, QUERIES)))


def test_adapters_read_what_the_norm_before_the_feed_forward_layer_gives(host: TinyHost) -> None:
    """LION's own code reads the residual stream, which has channels in the thousands on LLaMA."""
    parts = with_adapters(host)
    language_model: Any = host.language_model(parts.model)
    normed: list[Tensor] = []
    read: list[bool] = []
    for block in getattr(language_model, "layers", None) or language_model.blocks:
        for child in block.children():
            if "norm" in type(child).__name__.lower():
                child.register_forward_hook(lambda *given: normed.append(given[-1]))
    for mixture in mixtures_in(parts.model):
        mixture.register_forward_pre_hook(lambda _, given: read.append(torch.equal(given[0], normed[-1])))
    logits(parts.model, batch_of(parts, QUERIES))
    assert read == [True] * len(mixtures_in(parts.model))


def test_a_mixed_batch_is_each_sample_alone(host: TinyHost) -> None:
    parts = with_adapters(host)
    batch = batch_of(parts, QUERIES)
    mixed = logits(parts.model, batch)
    for number, query in enumerate(QUERIES):
        alone = logits(parts.model, batch_of(parts, [query]))[0]
        own = mixed[number, : len(alone)] if host.pads_right else mixed[number, -len(alone) :]
        assert (own - alone).abs().max() < 2e-5
    usual = {key: value for key, value in batch.items() if key != "tasks"}
    assert torch.equal(logits(parts.model, usual), mixed)  # regions tell
    other = logits(parts.model, {**usual, "tasks": ["image", "image", "region"]})
    assert [torch.equal(*pair) for pair in zip(other, mixed, strict=True)] == [False, True, True]


@slow
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("cache", [True, False])
def test_a_mixed_batch_answers_as_each_sample_alone(host: TinyHost, beams: int, cache: bool) -> None:
    parts = with_adapters(host)
    options = {"num_beams": beams, "use_cache": cache, "max_new_tokens": 8}
    queries = [*QUERIES, Query(WIDE, "where is it ?", task="region"), Query(WIDE, "where is it ?")]
    alone = [pvit_ext.ask(*parts, [query], **options)[0] for query in queries]
    assert pvit_ext.ask(*parts, queries, **options) == alone
    ids = [host.generate(parts.model, batch_of(parts, [query]), **options).tolist() for query in queries]
    assert ids[3] != ids[4]  # the task decides


def test_scores_of_texts_are_by_the_task_that_the_query_says(host: TinyHost) -> None:
    parts = with_adapters(host)
    for query, usual in ((PLAIN[1], "image"), (MIXED[0], "region")):
        queries = [replace(query, task=task) for task in (None, "image", "region")]
        by_rule, *said = (own[0].log_likelihood for own in pvit_ext.score(*parts, queries, [["a dog"]] * 3))
        assert by_rule == pytest.approx(said[("image", "region").index(usual)], abs=1e-4)
        assert abs(said[0] - said[1]) > 1e-3


@pytest.mark.parametrize("own", [{"lion_tasks": "caption,ground"}, {"lion_routing": "question"}])
def test_logits_of_a_text_and_a_plan_need_no_task(host: TinyHost, own: dict[str, str]) -> None:
    """A merge of quantised weights compares logits, a plan counts activations; any task does for both."""
    model = host.attached(replace(LION, **own)).model
    ids = torch.tensor([[1, 9, 12, 10]])
    with torch.no_grad():
        expected = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids), tasks=[0]).logits
    assert torch.equal(logits_of_text(model, ids), expected)
    assert count_activations(model, 2, 8, False, Precision()).saved > 0


def by_question(host: TinyHost) -> Parts:
    """A model whose router sends these questions to different adapters."""
    parts = host.attached(replace(LION, lion_routing="question"))
    moved(parts.model)
    for seed in range(50):
        torch.manual_seed(seed)
        parts.model.region_module.lion["region_router"].reset()
        if len(set(chosen(parts, QUERIES))) == 2:
            return parts
    raise AssertionError("each router sends all questions to one adapter")


def chosen(parts: Parts, queries: list[Query]) -> list[int]:
    router, batch = parts.model.region_module.lion["region_router"], batch_of(parts, queries)
    found: list[int] = router.route(parts.model.get_input_embeddings(), batch["questions"]).argmax(-1).tolist()
    return found


@slow
@pytest.mark.parametrize("beams", [1, 3])
def test_routing_by_the_question(host: TinyHost, beams: int, tmp_path: Path) -> None:
    parts = by_question(host)
    expected = logits(parts.model, batch_of(parts, QUERIES))
    for number, query in enumerate(QUERIES):
        alone = logits(parts.model, batch_of(parts, [query]))[0]
        own = expected[number, : len(alone)] if host.pads_right else expected[number, -len(alone) :]
        assert (own - alone).abs().max() < 2e-5
    said = [
        replace(query, task=("region", "image")[number])
        for query, number in zip(QUERIES, chosen(parts, QUERIES), strict=True)
    ]
    assert torch.equal(logits(parts.model, batch_of(parts, said)), expected)
    options = {"num_beams": beams, "max_new_tokens": 8}
    answers = [pvit_ext.ask(*parts, [query], **options)[0] for query in QUERIES]
    assert pvit_ext.ask(*parts, QUERIES, **options) == answers
    again = load(save(host, parts, tmp_path / "whole"))
    assert torch.equal(logits(again.model, batch_of(again, QUERIES)), expected)


@slow
@pytest.mark.parametrize("reentrant", [False, True])
def test_the_router_learns_through_gradient_checkpointing(host: TinyHost, reentrant: bool) -> None:
    parts = by_question(host)
    batch, other = batch_of(parts, QUERIES[:2]), batch_of(parts, QUERIES[1::-1])
    expected = gradients(parts.model, batch, None)
    parts.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    parts.model.enable_input_require_grads()
    found = gradients(parts.model, batch, other)
    names = [name for name in expected if "region_router" in name]
    assert len(names) == 6
    for name in names:
        assert bool(expected[name].any()), name
        assert torch.allclose(expected[name], found[name], rtol=1e-4, atol=1e-8), name


def gradients(model: Any, batch: dict[str, Any], between: Any) -> dict[str, Tensor]:
    model.train().zero_grad()
    loss = model(**with_labels(batch), use_cache=False).loss
    if between is not None:
        with torch.no_grad():
            model(**between, use_cache=False)
    loss.backward()
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("reentrant", [False, pytest.param(True, marks=slow)])
def test_gradient_checkpointing_with_another_forward_between(host: TinyHost, reentrant: bool) -> None:
    parts = with_adapters(host)
    model = parts.model
    batch, other = batch_of(parts, QUERIES[:2]), batch_of(parts, [QUERIES[1], QUERIES[0]])
    expected = gradients(model, batch, None)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    found = gradients(model, batch, other)
    assert found.keys() == expected.keys()
    assert any("lion_adapters" in name for name in found)
    for name, gradient in expected.items():
        if "lion_adapters" in name:  # reentrant checkpointing adds up a vision tower's in another order
            assert torch.equal(gradient, found[name]), name
        assert torch.allclose(gradient, found[name], rtol=1e-3, atol=1e-6), name


@slow
def test_checkpoints_and_region_files_keep_them(host: TinyHost, tmp_path: Path) -> None:
    parts = with_adapters(host)
    batch = batch_of(parts, QUERIES)
    expected = logits(parts.model, batch)
    again = load(save(host, parts, tmp_path / "whole"))
    assert torch.equal(logits(again.model, batch_of(again, QUERIES)), expected)
    assert again.model.region_config.lion_adapters == 4
    save_region_modules(parts.model, tmp_path / "regions", base=str(host.folder()))
    again = load(tmp_path / "regions")
    assert torch.equal(logits(again.model, batch_of(again, QUERIES)), expected)
    twin = copy.deepcopy(parts.model)
    moved(parts.model)
    assert torch.equal(logits(twin, batch), expected)
    load_region_modules(parts.model, tmp_path / "regions")
    assert torch.equal(logits(parts.model, batch), expected)


@slow
def test_added_to_a_checkpoint_with_regions_they_start_without_effect(host: TinyHost, tmp_path: Path) -> None:
    host.folder()
    parts = host.attached(OSPREY)
    expected = logits(parts.model, batch_of(parts, QUERIES))
    saved = save(host, parts, tmp_path / "whole")
    swap_encoder(saved, LION, tmp_path / "swapped")
    swapped = load(tmp_path / "swapped")
    assert torch.equal(logits(swapped.model, batch_of(swapped, QUERIES)), expected)
    pvit_ext.attach(parts.model, LION, processor=getattr(parts, "processor", None))
    assert torch.equal(logits(parts.model, batch_of(parts, QUERIES)), expected)
    moved(swapped.model)
    expected = logits(swapped.model, batch_of(swapped, QUERIES))
    again = save(host, swapped, tmp_path / "moved")
    swap_encoder(again, OSPREY, tmp_path / "kept")  # a later swap keeps what it does not name
    kept = load(tmp_path / "kept")
    assert torch.equal(logits(kept.model, batch_of(kept, QUERIES)), expected)


@slow
def test_lora_leaves_them_alone(host: TinyHost) -> None:
    parts = with_adapters(host)
    pattern = re.compile(find_all_linear_names(parts.model))
    names = [name for name, module in parts.model.named_modules() if isinstance(module, nn.Linear)]
    assert any(pattern.fullmatch(name) for name in names if ".mlp." in name or ".ffn." in name)
    assert not any(pattern.fullmatch(name) for name in names if "lion_adapters" in name)
    wrapped = learned(parts.model)
    batch = batch_of(parts, QUERIES)
    expected = logits(wrapped, batch)
    merged = wrapped.merge_and_unload()
    assert len(mixtures_in(merged)) == len(mixtures_in(parts.model))
    assert (logits(merged, batch) - expected).abs().max() < 1e-4


def test_the_command_asks_with_the_task_that_it_is_told(
    host: TinyHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = with_adapters(host)
    loaded = parts.tokenizer, parts.model, parts.processor, 512
    monkeypatch.setattr(pvit_ext, "load_pretrained_model", lambda *_, **__: loaded)
    asked: list[Query] = []
    monkeypatch.setattr(pvit_ext, "ask", lambda *given, **_: asked.extend(given[3]) or ["there"])
    WIDE.save(image := tmp_path / "wide.png")
    words = ["ask", "where is it ?", "--image", str(image), "--model", str(tmp_path)]
    assert [main([*words, *more]) for more in (["--task", "region"], [])] == [0, 0]
    assert [query.task for query in asked] == ["region", None]


def test_an_unknown_task_names_the_query(host: TinyHost) -> None:
    parts = with_adapters(host)
    with pytest.raises(RegionError, match="query 1: the task 'box' is none of the model's: region, image"):
        pvit_ext.ask(*parts, [QUERIES[0], Query(WIDE, "where ?", task="box")], max_new_tokens=1)
