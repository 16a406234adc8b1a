"""Attaching and swapping region encoders, and loading every kind of LLaVA."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pvit_ext
from pvit_ext.checkpoint import region_state
from tests.checkpoints import OPTIONS, config, load, logits, randomize, save
from tests.tiny import build_llava


@pytest.fixture
def embedded(llava_checkpoint: Path) -> Any:
    torch.manual_seed(1)
    return randomize(load(llava_checkpoint, region_config=config()))


def test_attach_leaves_llava_alone(llava_checkpoint: Path) -> None:
    model = load(llava_checkpoint)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert pvit_ext.attach(model, config()) is model
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert {key for key in after if key not in before} == {key for key in after if ".region_" in key}


def test_swap_keeps_what_fits_and_says_so(embedded: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pvit_ext")
    before = region_state(embedded)
    pvit_ext.attach(embedded, config(encoder_options={**OPTIONS, "output_dim": 12}))
    after = region_state(embedded)
    for key in ("delimiters.weight", "box_embedding.weight", "box_embedding.bias"):
        assert torch.equal(before[f"region_projector.{key}"], after[f"region_projector.{key}"])
    assert after["region_projector.features.weight"].shape == (48, 12)
    assert "delimiters is kept" in caplog.text
    assert "features starts anew" in caplog.text
    assert "(48, 24)" in caplog.text
    assert embedded.config.pvit_ext["feature_dim"] == 12


def test_attaching_the_same_encoder_keeps_it(embedded: Any) -> None:
    expected = logits(embedded)
    encoder = embedded.get_model().region_encoder
    pvit_ext.attach(embedded, config(encoder_options={**OPTIONS, "layers": (1, 1, 1, 1)}, conv_version="v1"))
    assert embedded.get_model().region_encoder is encoder
    assert torch.equal(logits(embedded), expected)
    assert embedded.region_config.conv_version == "v1"


def test_attach_that_fails_changes_nothing(embedded: Any, llava_checkpoint: Path) -> None:
    expected, modules = logits(embedded), embedded.get_model()
    encoder, projector = modules.region_encoder, modules.region_projector
    with pytest.raises(FileNotFoundError):
        pvit_ext.attach(embedded, config(weights="/nowhere/tower.pth"))
    assert (modules.region_encoder, modules.region_projector) == (encoder, projector)
    assert torch.equal(logits(embedded), expected)
    from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM as Stock

    stock = Stock.from_pretrained(str(llava_checkpoint))
    with pytest.raises(FileNotFoundError):
        pvit_ext.attach(stock, config(weights="/nowhere/tower.pth"))
    assert type(stock) is Stock


def test_attach_wants_a_llava() -> None:
    with pytest.raises(TypeError, match=r"Linear is no LLaVA class; known: .*LlavaLlamaForCausalLM"):
        pvit_ext.attach(nn.Linear(1, 1), config())


def test_language_model_without_image_tower(tmp_path: Path, llava_checkpoint: Path) -> None:
    folder = tmp_path / "text"
    build_llava(folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k != "mm_vision_tower"}))
    with pytest.raises(ValueError, match="without an image tower"):
        load(folder)


@pytest.mark.parametrize("family", ["mistral", "mpt"])
def test_other_language_models(family: str, tmp_path: Path) -> None:
    base = build_llava(tmp_path / family, family=family)
    torch.manual_seed(1)
    model = randomize(load(base, region_config=config()))
    expected = logits(model)
    assert torch.equal(logits(load(save(model, tmp_path / "saved"))), expected)
    pvit_ext.save_region_modules(model, tmp_path / "modules", base=str(base))
    assert torch.equal(logits(load(tmp_path / "modules")), expected)
