"""LION's parts by calls of a processor and a model of transformers', without ``ask``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pvit_ext
from pvit_ext import RegionConfig, RegionError
from pvit_ext.hosts.transformers.batch import RegionBatch
from pvit_ext.regions.region import Region
from pvit_ext.tools.swap import swap_encoder
from tests.hosts.test_lion_adapters import moved
from tests.hosts.tiny_hosts import load
from tests.hosts.transformers.inputs import IMAGES, OSPREY, REGIONS, plain_batch, region_batch, with_regions
from tests.hosts.transformers.zoo import prompt

WHAT, WHERE = "what is in <region> ?", "where is a cat ?"
BOX = Region.box(10, 20, 40, 50)
ONE = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}


def pair(encoder: str = "osprey", **config: Any) -> Any:
    """(model, processor), with adapters that differ."""
    model, processor = with_regions("llava", encoder, OSPREY if encoder == "osprey" else {}, **config)
    return (moved(model) if model.region_config.lion_adapters else model), processor


def called(processor: Any, texts: list[str], regions: Any = None, **more: Any) -> Any:
    """The processor's output, for the first images."""
    texts, images = [prompt(processor, text) for text in texts], [[one] for one in IMAGES[: len(texts)]]
    return processor(images=images, text=texts, regions=regions, return_tensors="pt", padding=True, **more)


def first(model: Any, batch: Any, **more: Any) -> Tensor:
    """Logits (B, V) of the first new ids."""
    found: Tensor = model.generate(**batch, **more, **ONE).logits[0]
    return found


@pytest.mark.parametrize("encoder", ["text", "overlay"])
def test_samples_whose_regions_are_shown_by_text_or_pixels_are_of_the_task_region(encoder: str) -> None:
    model, processor = pair(encoder, lion_adapters=4)
    out = called(processor, [WHAT, WHERE], [[BOX], []])
    assert "regions" not in out
    assert out["tasks"].tolist() == [0, 1]
    rest = {key: value for key, value in out.items() if key != "tasks"}
    assert torch.equal(first(model, out), first(model, rest, tasks=["region", "image"]))
    assert not torch.equal(first(model, out), first(model, rest))
    inline = called(processor, ["what is in <Region>[0.2, 0.2, 0.8, 0.8]</Region> ?"])
    assert inline["tasks"].tolist() == [0]
    assert "tasks" not in called(processor, [WHERE]), "calls without regions are the stock ones"
    assert "tasks" not in called(pair(encoder)[1], [WHAT], [[BOX]])


def test_a_processor_takes_tasks_and_hands_them_on() -> None:
    model, processor = pair(lion_adapters=4, lion_tasks="caption,ground")
    with pytest.raises(RegionError, match=r"sample 0: a sample with regions is of the task .*tasks=\[\.\.\.\]"):
        called(processor, [WHAT, WHERE], [[BOX], []])
    given = called(processor, [WHAT, WHERE], [[BOX], []], tasks=["ground", "caption"])
    assert given["tasks"].tolist() == [1, 0]
    assert first(model, given).isfinite().all()
    assert called(processor, [WHERE], tasks=["ground"])["tasks"].tolist() == [1]
    chat = [{"role": "USER", "content": [{"type": "text", "text": WHERE}]}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    told = processor.apply_chat_template(chat, **options, processor_kwargs={"tasks": ["caption"]})
    assert told["tasks"].tolist() == [0]


def test_a_processor_hands_on_some_tasks_or_none_where_the_question_chooses() -> None:
    _, processor = pair("text", lion_adapters=4, lion_routing="question")
    assert "tasks" not in called(processor, [WHAT], [[BOX]])
    assert called(processor, [WHAT, WHERE], [[BOX], []], tasks=["image", None])["tasks"].tolist() == [1, -1]


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (["region"], r"tasks holds 1 for 2 texts: give one name \(or None\) for each"),
        ("region", "tasks is the text 'region': give a list of names, one for each text"),
        (["region", "box"], "sample 1: the task 'box' is none of the model's: region, image"),
    ],
)
def test_tasks_of_a_processor_that_are_none_are_refused(tasks: Any, said: str) -> None:
    _, processor = pair(lion_adapters=4)
    for texts, regions in (([WHAT, WHERE], [[BOX], []]), ([WHERE, WHERE], None)):
        with pytest.raises(RegionError, match=said):
            called(processor, texts, regions, tasks=tasks)


def test_a_processor_refuses_tasks_that_its_model_does_not_take() -> None:
    _, processor = pair()
    for texts, regions in (([WHAT], [[BOX]]), ([WHERE], None)):
        with pytest.raises(RegionError, match="tasks were given, but the model has no adapters by task"):
            called(processor, texts, regions, tasks=["region"])


def test_region_tokens_tell_the_task_as_regions_do() -> None:
    model, processor = pair(lion_adapters=4)
    batch = region_batch(model, processor, [WHAT, WHERE], [REGIONS[0], None])
    with torch.no_grad():
        expected = model(**batch).logits
        given = {key: value for key, value in batch.items() if not key.startswith("region")}
        shown = (batch[key] for key in ("regions", "region_sizes", "region_views", "region_extra"))
        given["region_tokens"] = model.base_model.region_tokens(given, RegionBatch.of(*shown))
        assert torch.equal(model(**given).logits, expected)
        assert torch.equal(model(**given, tasks=[None, "image"]).logits, expected)
        assert not torch.equal(model(**given, tasks=["image", "image"]).logits, expected)
    torch.testing.assert_close(first(model, given), expected[:, -1])


def test_a_hint_that_the_model_reads_no_more_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    model, processor = pair(lion_tags="hint")
    pvit_ext.attach(model, RegionConfig("osprey", encoder_options=OSPREY, lion_tags="plain"), processor=processor)
    assert "the tokenizer keeps <hint>, which the model reads no more: a prompt with it is refused" in caplog.text
    caplog.clear()
    said = r"sample 1: <hint> is a token of the tokenizer, and the model has no use for it: take it out"
    for more in ({}, {"regions": [[BOX], []]}):
        with pytest.raises(RegionError, match=said):
            called(processor, [WHAT if more else WHERE, "where is <hint> ?"], **more)
    query = pvit_ext.Query(IMAGES[0], "where is <hint> ?")
    with pytest.raises(RegionError, match="query 0: <hint> is a token"):
        pvit_ext.ask(model, processor.tokenizer, processor, [query], max_new_tokens=1)
    assert "ordinary text" not in caplog.text
    pvit_ext.attach(model, RegionConfig("osprey", encoder_options=OSPREY, lion_tags="hint"), processor=processor)
    token = processor.tokenizer.convert_tokens_to_ids("<hint>")
    assert int((called(processor, ["where is <hint> ?"])["input_ids"] == token).sum()) == 1


def test_rows_that_the_model_appends_no_more_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    model, processor = pair(lion_aggregator="appended")
    pvit_ext.attach(model, RegionConfig("osprey", encoder_options=OSPREY, lion_aggregator="added"), processor=processor)
    assert "the tokenizer keeps <image_row>" in caplog.text
    with pytest.raises(RegionError, match="sample 0: <image_row> is a token of the tokenizer"):
        called(processor, ["where is <image_row> ?"])


@pytest.mark.slow
def test_a_hint_is_refused_after_swap_and_after_loading(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = RegionConfig("osprey", encoder_options=OSPREY, lion_tags="plain")
    for part in pair(lion_tags="hint"):
        part.save_pretrained(tmp_path / "hint")
    swap_encoder(tmp_path / "hint", plain, tmp_path / "swapped")
    assert caplog.text.count("the tokenizer keeps <hint>") == 1
    for folder, options in ((tmp_path / "swapped", {}), (tmp_path / "hint", {"region_config": plain})):
        parts = load(folder, **options)
        assert parts.model.region_config.lion_tags == "plain"
        with pytest.raises(RegionError, match="query 0: <hint> is a token"):
            pvit_ext.ask(*parts, [pvit_ext.Query(IMAGES[0], "where is <hint> ?")], max_new_tokens=1)


def writing_placeholders(model: Any) -> set[int]:
    """Make placeholders the likeliest of all ids; returns them."""
    facts = model.base_model.region_host.facts
    found = {one for one in (facts.token_id, facts.hint_token_id, facts.row_token_id) if one is not None}
    model.lm_head.register_forward_hook(lambda _module, _given, out: out.index_fill(-1, torch.tensor([*found]), 100.0))
    return found


@pytest.mark.parametrize("text", [WHAT, "where is <hint> ?", WHERE])
def test_a_model_with_a_hint_vector_never_writes_a_placeholder(text: str) -> None:
    model, processor = pair(lion_tags="hint")
    never = writing_placeholders(model)
    batch = called(processor, [text], [[BOX]] if text == WHAT else None)
    for options in ({}, {"num_beams": 2}, {"use_cache": False}, {"suppress_tokens": [9]}):
        new = model.generate(**batch, max_new_tokens=3, **options)[0, batch["input_ids"].shape[1] :].tolist()
        assert {*never, *options.get("suppress_tokens", ())}.isdisjoint(new), options


def test_a_model_that_appends_rows_never_writes_a_placeholder_without_an_image() -> None:
    model, processor = pair(lion_aggregator="appended")
    never = writing_placeholders(model)
    batch = processor(text=[WHERE], return_tensors="pt")
    new = model.generate(**batch, max_new_tokens=3, use_cache=False)[0, batch["input_ids"].shape[1] :].tolist()
    assert never.isdisjoint(new)


def test_a_model_with_tags_alone_writes_what_stock_writes() -> None:
    model, processor = pair(lion_tags="plain")
    never = writing_placeholders(model)
    assert never.issuperset(model.generate(**plain_batch(processor), max_new_tokens=1)[:, -1].tolist())
