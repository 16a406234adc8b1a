"""LION's options and arguments on models of both hosts: what is said is done or refused, never dropped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import DynamicCache

import pvit_ext
from pvit_ext import RegionConfig, RegionError
from pvit_ext.adapters.lion.feed_forward import mixtures_in
from pvit_ext.config import CONFIG_KEY, regions_to_json
from pvit_ext.tokens.serialization import load_region_modules, write_region_files
from pvit_ext.tools.merge import merge_checkpoint
from tests.adapters.models import learned, save_result
from tests.hosts.test_lion_adapters import QUERIES, gradients, moved
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST, OSPREY, PLAIN, TinyHost, batch_of, load, logits, save

BOTH = ["llava/llama", *(["transformers/llava"] if HAS_TRANSFORMERS_HOST else [])]
pytestmark = pytest.mark.parametrize("host", BOTH, indirect=True)
LION = replace(OSPREY, lion_adapters=4)
IDS = torch.tensor([[1, 9, 12, 10, 30, 31]])
GREEDY = {"max_new_tokens": 4, "do_sample": False}


def continued(host: TinyHost, config: RegionConfig, **after: Any) -> Any:
    host.folder()
    parts = host.attached(config)
    return pvit_ext.attach(parts.model, replace(OSPREY, **after), processor=getattr(parts, "processor", None))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"lion_adapters": 4, "lion_tasks": "caption,ground"}, {"lion_tasks": "region,image"}),
        ({"lion_adapters": 4, "lion_routing": "question"}, {"lion_routing": "task"}),
        ({"lion_tags": "hint"}, {"lion_tags": "plain"}),
        ({"box_embedding": True, "cross_layers": 1}, {"box_embedding": False, "cross_layers": 0}),
    ],
)
def test_what_attach_is_told_is_done_though_it_is_the_default(
    host: TinyHost, before: dict[str, Any], after: dict[str, Any], tmp_path: Path
) -> None:
    model = continued(host, replace(OSPREY, **before), **after)
    found = {name: getattr(model.region_config, name) for name in after}
    assert found == after
    expected = host.attached(replace(OSPREY, **{**before, **after})).model.region_module.tensors()
    assert model.region_module.tensors().keys() == expected.keys()  # nothing stays of a part that went
    pvit_ext.save_region_modules(model, tmp_path)
    load_region_modules(model, tmp_path)


def test_attach_refuses_what_it_cannot_do(host: TinyHost) -> None:
    host.folder()
    parts = host.attached(LION)
    given = {"lion_adapters": 0}, {"lion_tags": ""}, {"lion_tasks": ["a", "b"]}, {"embed_weights": False}
    said = "adapters of width 4, which stay", "lion_tags is ''", "'lion_tasks' is a text or null", "embed_weights is F"
    for values, message in zip(given, said, strict=True):
        with pytest.raises(ValueError, match=message):
            pvit_ext.attach(parts.model, replace(OSPREY, **values), processor=parts.processor)


def test_a_new_aggregator_reads_different_layers_and_an_old_one_its_own(host: TinyHost, tmp_path: Path) -> None:
    host.folder()
    added = replace(OSPREY, lion_aggregator="added")
    with pytest.raises(ValueError, match=r"lion_aggregator_depths '0\.9,0\.9' read layer . of . twice"):
        host.attached(replace(added, lion_aggregator_depths="0.9,0.9"))
    model = host.attached(added).model
    layers = model.region_module.lion["region_aggregator"].layers
    assert len(set(layers)) == len(layers) >= 2
    stock = host.stock_parts()
    stored = replace(added, lion_aggregator_depths="0.5,0.5,0.4").decided()  # as an earlier version made it
    values = regions_to_json(stored, model.region_module.facts)
    write_region_files(tmp_path, {"none": torch.ones(1)}, values, None, adapter=False)
    processor = getattr(stock, "processor", None)
    pvit_ext.attach(stock.model, stored, str(tmp_path), filled_later=True, processor=processor)
    assert len(stock.model.region_module.lion["region_aggregator"].blocks) == 2
    assert getattr(stock.model.config, CONFIG_KEY)["lion_aggregator_depths"] == "0.5,0.5,0.4"
    pvit_ext.attach(stock.model, OSPREY, processor=processor)
    assert stock.model.region_config.lion_aggregator_depths == "0.5,0.5,0.4"


def test_each_of_three_tasks_reaches_its_own_adapter_alone(host: TinyHost) -> None:
    host.folder()
    names = ("region", "image", "ground")
    parts = host.attached(replace(LION, lion_tasks=",".join(names)))
    batch = batch_of(parts, [replace(PLAIN[1], task=name) for name in names])
    start = logits(parts.model, batch)
    for own in range(3):
        for mixture in mixtures_in(parts.model):
            for number, adapter in enumerate(mixture.adapters):
                (nn.init.normal_ if number == own else nn.init.zeros_)(adapter.up.weight)
        pairs = zip(logits(parts.model, batch), start, strict=True)
        assert [number for number, pair in enumerate(pairs) if not torch.equal(*pair)] == [own]


def test_questions_are_refused_without_a_router(host: TinyHost) -> None:
    host.folder()
    for config in (OSPREY, LION):
        model = host.attached(config).model
        with pytest.raises(RegionError, match="questions were given, but the model does not choose"):
            model(input_ids=IDS, questions=torch.ones(1, 2, dtype=torch.long))
        with pytest.raises(RegionError, match="questions were given, but the model does not choose"):
            model.generate(IDS, questions=torch.ones(1, 2, dtype=torch.long), max_new_tokens=1)


def test_generate_takes_tasks_with_embeddings(host: TinyHost) -> None:
    host.folder()
    model = moved(host.attached(LION).model)
    embeds, ones = model.get_input_embeddings()(IDS), torch.ones_like(IDS)
    found = []
    for task in ("image", "region"):
        expected = host.generate(model, {"input_ids": IDS, "attention_mask": ones, "tasks": [task]}, **GREEDY)
        given = model.generate(inputs_embeds=embeds, attention_mask=ones, tasks=[task], **GREEDY)
        assert torch.equal(given[:, -expected.shape[1] :], expected)
        found.append(logits(model, {"inputs_embeds": embeds, "tasks": [task]}))
    assert not torch.equal(*found)


def test_embeddings_do_not_tell_the_task(host: TinyHost) -> None:
    """Region tokens may be among them: a sample with regions would take the way of one without."""
    host.folder()
    model = moved(host.attached(LION).model)
    given = {"inputs_embeds": model.get_input_embeddings()(IDS), "attention_mask": torch.ones_like(IDS)}
    for tasks in ({}, {"tasks": [None]}):
        for call in (model, model.generate):
            with pytest.raises(RegionError, match="sample 0: inputs_embeds do not show whether it has regions: pass t"):
                call(**given, **tasks)
    assert logits(host.attached(OSPREY).model, given).isfinite().all()


@pytest.mark.skipif(not HAS_TRANSFORMERS_HOST, reason="generate of transformers 4.36 goes on from no cache")
def test_generate_takes_tasks_from_a_cache(host: TinyHost) -> None:
    host.folder()
    model = moved(host.attached(LION).model)
    embeds, ones = model.get_input_embeddings()(IDS), torch.ones_like(IDS)
    for task in ("image", "region"):
        cache = DynamicCache()
        begin = {"input_ids": IDS[:, :3], "attention_mask": ones[:, :3], "past_key_values": cache, "use_cache": True}
        with torch.no_grad():
            model(**begin, tasks=[task])
        rest = {"inputs_embeds": embeds, "attention_mask": ones, "past_key_values": cache}
        with pytest.raises(RegionError, match="goes on from a cache: pass tasks="):
            model.generate(**rest, **GREEDY)
        found = model.generate(**rest, tasks=[task], **GREEDY)
        expected = host.generate(model, {"input_ids": IDS, "attention_mask": ones, "tasks": [task]}, **GREEDY)
        assert torch.equal(found[:, -expected.shape[1] :], expected)


@pytest.mark.parametrize("reentrant", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_adapters_attached_to_a_stock_model_under_gradient_checkpointing_keep_their_routes(
    host: TinyHost, reentrant: bool
) -> None:
    host.folder()
    parts = host.stock_parts()._replace(model=(model := host.stock()))  # whose class knows of no routes yet
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    moved(pvit_ext.attach(model, LION, processor=getattr(parts, "processor", None)))
    batch, other = batch_of(parts, QUERIES[:2]), batch_of(parts, QUERIES[1::-1])
    found = gradients(model, batch, other)
    model.gradient_checkpointing_disable()
    expected = {name: one for name, one in gradients(model, batch, None).items() if "lion_adapters" in name}
    assert len(expected) >= 10
    for name, one in expected.items():
        assert torch.allclose(one, found[name], rtol=1e-3, atol=1e-6), name


def test_a_folder_of_modules_takes_no_part_of_lions_away(
    host: TinyHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host.folder()
    base = save(host, host.attached(replace(LION, lion_tags="plain")), tmp_path / "base")
    pvit_ext.save_region_modules(host.attached(OSPREY).model, tmp_path / "modules", base=str(base))
    caplog.set_level("INFO", "pvit_ext")
    model = load(tmp_path / "modules").model
    assert model.region_config == load(base).model.region_config
    assert "they stay as they are" in caplog.text


def test_a_folder_over_a_base_with_other_adapters_and_layers_keeps_its_own(
    host: TinyHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file holds adapters by number, and says nothing of the layers that its aggregator reads."""
    host.folder()
    lion = replace(LION, lion_aggregator="added")
    of_base = replace(lion, lion_tasks="region,image", lion_aggregator_depths="1,0.7")
    base = save(host, host.attached(of_base), tmp_path / "base")
    trained = host.attached(replace(lion, lion_tasks="image,region", lion_aggregator_depths="1,0.34")).model
    moved(trained)
    pvit_ext.save_region_modules(trained, tmp_path / "modules", base=str(base))
    caplog.clear()
    loaded = load(tmp_path / "modules").model
    assert "starts anew" not in caplog.text
    found = loaded.region_module.tensors()
    assert all(torch.equal(value, found[key]) for key, value in trained.region_module.tensors().items())
    for task in ("image", "region"):
        assert torch.equal(
            logits(loaded, {"input_ids": IDS, "tasks": [task]}), logits(trained, {"input_ids": IDS, "tasks": [task]})
        )


def test_adapters_are_not_filled_into_those_of_other_tasks(host: TinyHost, tmp_path: Path) -> None:
    host.folder()
    there = host.attached(LION).model
    for other in ("image,region", "caption,ground"):
        pvit_ext.save_region_modules(host.attached(replace(LION, lion_tasks=other)).model, tmp_path / other)
        before = there.region_module.tensors()
        with pytest.raises(
            ValueError, match=f"holds adapters of the tasks {other.replace(',', ', ')}, the model .* region, image"
        ):
            load_region_modules(there, tmp_path / other)
        assert all(torch.equal(value, before[key]) for key, value in there.region_module.tensors().items())


@pytest.mark.parametrize("lora", [False, True])
def test_a_merge_keeps_the_mixture_and_says_why(
    host: TinyHost, tmp_path: Path, caplog: pytest.LogCaptureFixture, lora: bool
) -> None:
    host.folder()
    trained = host.attached(LION)
    moved(trained.model)
    if lora:
        wrapped = learned(trained.model)
        expected = logits(wrapped, batch_of(trained, QUERIES))
        save_result(wrapped, tmp_path / "folder", host.folder())
    else:
        expected = logits(trained.model, batch_of(trained, QUERIES))
        pvit_ext.save_region_modules(trained.model, tmp_path / "folder", base=str(host.folder()))
    merge_checkpoint(str(tmp_path / "folder"), str(tmp_path / "out"))
    reasons = [
        one.message for one in caplog.records if one.levelname == "WARNING" and "cannot be merged" in one.message
    ]
    assert len(reasons) == 1
    assert f"{tmp_path / 'out'}: a mixture of adapters cannot be merged into its feed-forward" in reasons[0]
    assert "it is not linear (relu), and differs between samples (gates by task)" in reasons[0]
    merged = load(tmp_path / "out")
    assert (logits(merged.model, batch_of(merged, QUERIES)) - expected).abs().max() < 1e-4 * lora + 1e-9
    assert len(mixtures_in(merged.model)) == len(mixtures_in(trained.model)) > 0


def test_parts_of_region_tokens_are_those_of_the_folder(
    host: TinyHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    host.folder()
    there = host.attached(replace(OSPREY, box_embedding=True, cross_layers=1))
    base = save(host, there, tmp_path / "base")
    without = replace(OSPREY, box_embedding=False, cross_layers=0)
    model = pvit_ext.attach(there.model, without, processor=getattr(there, "processor", None))
    pvit_ext.save_region_modules(model, tmp_path / "modules", base=str(base))
    caplog.clear()
    loaded = load(tmp_path / "modules").model
    assert loaded.region_module.tensors().keys() == model.region_module.tensors().keys()
    for part in ("box_embedding", "cross_layers"):
        assert f"region projector: {part} goes" in caplog.text


def test_a_part_that_goes_is_named(host: TinyHost, caplog: pytest.LogCaptureFixture) -> None:
    continued(host, replace(OSPREY, box_embedding=True, cross_layers=1), box_embedding=False)
    assert "region projector: box_embedding goes" in caplog.text
    assert "cross_layers goes" not in caplog.text
