"""Attaching a region encoder to a loaded model of transformers', and what is wrapped around such a model."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import pvit_ext
from pvit_ext.adapters.lora import find_all_linear_names
from pvit_ext.regions.region import Region, RegionError
from tests.hosts.transformers.inputs import (
    ALL,
    ALL_BUT_TWO_SLOW,
    EVERY,
    IMAGES,
    OSPREY,
    QUESTIONS,
    REGIONS,
    plain_batch,
    region_batch,
    with_regions,
)
from tests.hosts.transformers.zoo import ZOO, llava

CONFIG = pvit_ext.RegionConfig("osprey", encoder_options=OSPREY)


def logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch).logits


@pytest.mark.parametrize("name", EVERY)
def test_placeholder_takes_a_spare_row(name: str) -> None:
    model, processor = ALL[name]()
    before = model.get_input_embeddings().weight.clone()
    pvit_ext.attach(model, CONFIG, processor=processor)
    token = processor.tokenizer.convert_tokens_to_ids("<region>")
    assert token == model.model.region_host.token_id < len(before)
    assert processor.tokenizer("what <region><region> ?").input_ids.count(token) == 2
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_without_a_spare_row_one_is_added_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    used = len(llava()[1].tokenizer)
    model, processor = llava(rows=used)
    stock = logits(model, plain_batch(processor))
    with caplog.at_level(logging.WARNING):
        pvit_ext.attach(model, CONFIG, processor=processor)
    assert f"grows from {used} to {used + 1} rows" in caplog.text
    assert model.config.text_config.vocab_size == model.lm_head.out_features == used + 1
    assert torch.equal(logits(model, plain_batch(processor))[..., :used], stock)
    torch.testing.assert_close(model.lm_head.weight[-1], model.lm_head.weight[:-1].mean(0))
    assert logits(model, region_batch(model, processor)).isfinite().all()


def test_errors_say_what_to_do() -> None:
    model, processor = ZOO["llava"]()
    with pytest.raises(ValueError, match=r"processor=AutoProcessor"):
        pvit_ext.attach(model, CONFIG)
    model.config.model_type = "idefics3"
    with pytest.raises(ValueError, match=r"'idefics3' take no regions: .*Known types"):
        pvit_ext.attach(model, CONFIG, processor=processor)
    model, processor = with_regions("llava")
    batch = region_batch(model, processor)
    with pytest.raises(RegionError, match=r"sample 1: its 1 region\(s\) take 4 positions"):
        model(**{**batch, "regions": [batch["regions"][0], batch["regions"][1][:1]]})
    with pytest.raises(RegionError, match="region_views"):
        model(**{**batch, "region_views": None})
    with pytest.raises(RegionError, match=r"sample 0, region 0: .* not resolved"):
        model(**{**batch, "regions": REGIONS})
    with pytest.raises(RegionError, match="no images"):
        model(**{**batch, "pixel_values": None})
    embeds = model.get_input_embeddings()(batch["input_ids"])
    with pytest.raises(RegionError, match="inputs_embeds"):
        model(**{**batch, "input_ids": None, "inputs_embeds": embeds})


@pytest.mark.parametrize(
    ("model_of", "processor_of", "error"),
    [
        (None, "tokenizer", "without tokenizer and image_processor: give that of the model"),
        (None, "image_processor", r"is a CLIPImageProcessor(Pil)? without tokenizer and image_processor"),
        (None, "another family", r"is a InternVLProcessor, which prepares images for models of another family"),
        (None, "another one with its ids", r"is a LlavaNextProcessor, which prepares images for models of another fam"),
        (None, "other ids", r"writes the id \d+ for an image, the LlavaFor\w+ reads \d+"),
        ("inner", None, "a LlavaModel has no head that generates: load it by AutoModelForImageTextToText"),
        ("peft", None, "a PeftModel is around the model: .* get_peft_model and the like after"),
    ],
)
def test_what_is_no_model_or_no_processor_of_it_changes_nothing(
    model_of: str | None, processor_of: str | None, error: str
) -> None:
    from peft import LoraConfig, get_peft_model

    model, processor = ZOO["llava"]()
    given = {"inner": lambda: model.model, "peft": lambda: get_peft_model(model, LoraConfig(target_modules=["q_proj"]))}
    other = {
        "another family": lambda: ALL["internvl"]()[1],
        "another one with its ids": lambda: ALL["llava_next"]()[1],
        "other ids": lambda: with_image_token(ZOO["llava"]()[1], "dog"),
    }
    found = given[model_of]() if model_of else model
    kind = type(found)
    made = other[processor_of]() if processor_of in other else getattr(processor, str(processor_of), processor)
    with pytest.raises((TypeError, ValueError), match=error):
        pvit_ext.attach(found, CONFIG, processor=made)
    assert type(found) is kind
    assert not hasattr(found.config, "pvit_ext")
    assert not hasattr(model, "region_encoder")
    assert "<region>" not in processor.tokenizer.get_vocab()


def with_image_token(processor: Any, word: str) -> Any:
    """A processor that writes a word of its vocabulary for an image."""
    processor.image_token_id = processor.tokenizer.convert_tokens_to_ids(word)
    return processor


def test_arguments_in_the_wrong_place_are_named() -> None:
    model, processor = ZOO["llava"]()
    with pytest.raises(TypeError, match=r"config is a str: give pvit_ext\.RegionConfig"):
        pvit_ext.attach(model, "osprey", processor=processor)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"checkpoint is a LlavaProcessor: give a folder; processor= is given"):
        pvit_ext.attach(model, CONFIG, processor)


@pytest.mark.parametrize("training", [True, False])
def test_new_modules_are_in_the_mode_of_the_model(training: bool) -> None:
    model, processor = ZOO["llava"]()
    pvit_ext.attach(model.train(training), CONFIG, processor=processor)
    assert model.region_projector.training == model.region_encoder.training == training


@pytest.mark.parametrize(("name", "sizes"), [("qwen2_vl", "rows and columns of cells"), ("pixtral", "cells, but the")])
def test_views_of_other_images_are_refused(name: str, sizes: str) -> None:
    model, processor = with_regions(name)
    batch = region_batch(model, processor)
    views = batch["region_views"]
    views = views[:1] * 2 if name == "pixtral" else views[::-1]  # of one number of cells in all, whichever comes first
    with pytest.raises(RegionError, match=sizes):
        model(**{**batch, "region_views": views})


def test_another_encoder_takes_the_place_of_the_first() -> None:
    model, processor = with_regions("llava")
    kept = model.region_projector.delimiters.weight.clone()
    pvit_ext.attach(model, pvit_ext.RegionConfig("replay", encoder_options={"grid": 2}), processor=processor)
    assert model.region_config.encoder == "replay"
    assert torch.equal(model.region_projector.delimiters.weight, kept)
    assert logits(model, region_batch(model, processor)).isfinite().all()


def test_two_threads_on_one_model() -> None:
    model, processor = with_regions("llava")
    batches = [
        region_batch(model, processor, QUESTIONS[:1], [[Region.box(5 * k, 3, 5 * k + 20, 40)]], IMAGES[:1])
        for k in range(4)
    ]
    want, got = [logits(model, one) for one in batches], [None] * len(batches)

    def run(number: int) -> None:
        for _ in range(5):
            got[number] = logits(model, batches[number])  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(one, other) for one, other in zip(want, got, strict=True))
    assert not model.model.pending


@pytest.mark.parametrize("name", ALL_BUT_TWO_SLOW)
def test_lora_adapts_the_language_model_alone(name: str, tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    model, processor = with_regions(name)
    batch = region_batch(model, processor)
    want, answer = logits(model, batch), model.generate(**batch, max_new_tokens=3, do_sample=False)
    lora = LoraConfig(
        target_modules=find_all_linear_names(model),
        modules_to_save=["region_projector", "region_encoder"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(model, lora)
    adapted = {key.partition(".lora_A")[0] for key, _ in wrapped.named_parameters() if ".lora_A" in key}
    assert adapted
    assert all(key.startswith("base_model.model.model.language_model.layers.") for key in adapted)
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped, batch), want)
        assert torch.equal(wrapped.generate(**batch, max_new_tokens=3, do_sample=False), answer)
    changed = logits(wrapped, batch)
    assert not torch.equal(changed, want)
    wrapped.train()(**batch, labels=batch["input_ids"]).loss.backward()
    trained = {key for key, p in wrapped.named_parameters() if p.grad is not None}
    assert any("region_projector.modules_to_save" in key for key in trained)
    wrapped.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(with_regions(name)[0], tmp_path)
    assert torch.equal(logits(again, batch), changed)
    merged = again.merge_and_unload()
    torch.testing.assert_close(logits(merged, batch), changed, atol=1e-4, rtol=0)
    assert type(merged) is type(model)


@pytest.mark.parametrize("device_map", [{"": "cpu"}, "disk"])
def test_device_map(device_map: Any, tmp_path: Path) -> None:
    model, processor = with_regions("qwen2_5_vl")
    model.save_pretrained(tmp_path / "model")
    if device_map == "disk":
        device_map = {"model.visual": "cpu", "model.language_model": "disk", "lm_head": "cpu"}
        device_map |= {"region_encoder": "cpu", "region_projector": "disk"}
    options = {"device_map": device_map, "offload_folder": str(tmp_path / "offload")}
    placed = type(model).from_pretrained(tmp_path / "model", **options)
    batch = region_batch(model, processor)
    assert torch.equal(logits(model, batch), logits(placed, batch))
    answer = {"max_new_tokens": 3, "do_sample": False}
    assert torch.equal(model.generate(**batch, **answer), placed.generate(**batch, **answer))
