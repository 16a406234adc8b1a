"""Attaching and swapping region encoders, and loading every kind of LLaVA."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from llava.model.multimodal_encoder import clip_encoder
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

import pvit_ext
from pvit_ext.encoders import base as encoders_base
from pvit_ext.hosts.llava import compat
from pvit_ext.hosts.llava.stored import read_stored
from pvit_ext.hosts.llava.training import llava_names
from tests.checkpoints import (
    OPTIONS,
    config,
    inputs,
    load,
    logits,
    randomize,
    save,
    tower_tensors,
    unfreeze_tower,
)
from tests.tiny import build_llava

OF_A_PLUGIN = "if 'a_tower_of_nobody' is the vision tower of a plug-in, --plugin MODULE imports it"


def test_a_tower_of_a_plugin_that_was_not_named(llava_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(llava_checkpoint, folder := tmp_path / "m")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "mm_vision_tower": "a_tower_of_nobody"}))
    with pytest.raises(ValueError, match=f"Unknown vision tower: a_tower_of_nobody: .*{OF_A_PLUGIN}; registered now: "):
        pvit_ext.load_pretrained_model(str(folder), device="cpu")
    with pytest.raises(ValueError, match=OF_A_PLUGIN):
        read_stored(folder)


@pytest.mark.parametrize("unfrozen", [False, True])
def test_pillow_prepares_images_where_torchvision_would(
    llava_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unfrozen: bool
) -> None:
    # a LLaVA-1.6 loads its tower while the model is made
    folder = unfreeze_tower(llava_checkpoint, tmp_path / "m") if unfrozen else llava_checkpoint
    monkeypatch.setattr(clip_encoder, "CLIPImageProcessor", None)  # stands for the class on torchvision
    processor = pvit_ext.load_pretrained_model(str(folder), device="cpu")[2]
    assert "image_processing_pil" in type(processor).__module__ or not hasattr(transformers, "CLIPImageProcessorPil")
    compat.prepare_training()
    with llava_names():
        assert clip_encoder.CLIPImageProcessor is type(processor)
    assert clip_encoder.CLIPImageProcessor is None


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
    before = embedded.region_module.tensors()
    pvit_ext.attach(embedded, config(encoder_options={**OPTIONS, "output_dim": 12}))
    after = embedded.region_module.tensors()
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
    options = {**dict(reversed(OPTIONS.items())), "layers": (1, 1, 1, 1)}  # transformers sorts what it saves
    pvit_ext.attach(embedded, config(encoder_options=options, conv_version="v1"))
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


def test_attach_wants_a_model_of_a_host() -> None:
    with pytest.raises(TypeError, match=r"Linear is no model of a known host \(.*llava"):
        pvit_ext.attach(nn.Linear(1, 1), config())


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(llava_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"'cuda:1' was asked for, but this torch \(.*\) sees no CUDA device"):
        pvit_ext.load_pretrained_model(str(llava_checkpoint), device="cuda:1")


def test_language_model_without_vision_tower(tmp_path: Path, llava_checkpoint: Path) -> None:
    folder = tmp_path / "text"
    build_llava(folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k != "mm_vision_tower"}))
    with pytest.raises(ValueError, match="without a vision tower"):
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


TINY_TOWER = CLIPVisionConfig(hidden_size=4, num_attention_heads=1, num_hidden_layers=0)
OLD_NAMES = hasattr(CLIPVisionModel(TINY_TOWER), "vision_model")
LAYOUTS = pytest.mark.parametrize(
    "level",
    [
        "vision_model.",
        pytest.param("", marks=pytest.mark.skipif(OLD_NAMES, reason="transformers 5 names the tower so")),
    ],
)


def features_of(checkpoint: Path, first_file: Path) -> Tensor:
    """What the vision tower of a checkpoint makes of a picture, with no code of LLaVA's or ours."""
    tower = CLIPVisionModel.from_pretrained(first_file)
    level = "vision_model." if OLD_NAMES else ""
    tower.load_state_dict({f"{level}{key}": value for key, value in tower_tensors(checkpoint).items()})
    with torch.no_grad():
        return tower(inputs()["images"], output_hidden_states=True).hidden_states[-2][:, 1:]


@LAYOUTS
def test_a_checkpoint_that_holds_its_vision_tower_is_loaded_with_it(
    llava_checkpoint: Path, tmp_path: Path, level: str
) -> None:
    """LLaVA-1.6; transformers 5 refuses the file that LLaVA reads while the model is on the meta device."""
    checkpoint = unfreeze_tower(llava_checkpoint, tmp_path / "llava-own", level)
    expected = features_of(checkpoint, llava_checkpoint / "tower")
    ours = load(checkpoint, region_config=config())
    with pvit_ext.patched():
        from llava.model.builder import load_pretrained_model

        llavas = load_pretrained_model(str(checkpoint), None, "llava", device="cpu", device_map="cpu")[1].float()
    for model, tolerance in ((ours, 0.0), (llavas, 2e-2)):  # LLaVA's loader rounds to float16
        tower = model.get_vision_tower()
        assert not any(parameter.requires_grad for parameter in tower.parameters())
        with torch.no_grad():
            found = tower(inputs()["images"])
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    assert not torch.allclose(load(llava_checkpoint).get_vision_tower()(inputs()["images"]), expected, atol=0.1)


def test_a_checkpoint_that_holds_its_vision_tower_is_saved_with_it(llava_checkpoint: Path, tmp_path: Path) -> None:
    """Under the names that LLaVA's own stack reads."""
    checkpoint = unfreeze_tower(llava_checkpoint, tmp_path / "llava-own")
    model = randomize(load(checkpoint, region_config=config(embed_weights=True)))
    saved = save(model, tmp_path / "saved")
    before, after = (load_file(folder / "model.safetensors") for folder in (checkpoint, saved))
    assert before.keys() == {key for key in after if ".region_" not in key}
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert torch.equal(logits(load(saved)), logits(model))


def test_a_tower_that_the_checkpoint_should_hold_and_does_not_is_read_from_its_file(
    llava_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = unfreeze_tower(llava_checkpoint, tmp_path / "llava-own")
    tensors = load_file(checkpoint / "model.safetensors")
    rest = {key: value for key, value in tensors.items() if ".vision_tower." not in key}
    save_file(rest, checkpoint / "model.safetensors", {"format": "pt"})
    model, stock = load(checkpoint), load(llava_checkpoint)
    pairs = zip(model.get_vision_tower().parameters(), stock.get_vision_tower().parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    one = next(key for key in tensors if ".vision_tower." in key)
    save_file(rest | {one: tensors[one]}, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"llava-own .*unfreeze_mm_vision_tower.* lacks .*post_layernorm"):
        load(checkpoint)


class BoxEncoder(pvit_ext.RegionEncoder):
    """Trains, and starts from a file."""

    name, feature_dim = "box_from_file", 4

    def __init__(self, config: Any, tower_config: Any) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def load_weights(self, path: str) -> None:
        self.load_state_dict(torch.load(path, weights_only=True))

    def forward(self, inputs: pvit_ext.RegionInputs) -> torch.Tensor:
        return self.layer(inputs.boxes_norm)[:, None]


def test_encoder_that_trains_is_saved_and_not_read_back_from_its_first_file(
    llava_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(encoders_base.REGION_ENCODERS, "box_from_file", BoxEncoder)
    torch.save(BoxEncoder(None, None).state_dict(), tmp_path / "first.pth")
    config = pvit_ext.RegionConfig("box_from_file", weights=str(tmp_path / "first.pth"))
    _, model, _, _ = pvit_ext.load_pretrained_model(str(llava_checkpoint), region_config=config, device="cpu")
    layer = model.get_model().region_encoder.layer
    assert layer.weight.requires_grad
    torch.nn.init.constant_(layer.weight, 7.0)
    model.save_pretrained(tmp_path / "whole")
    pvit_ext.save_region_modules(model, tmp_path / "modules", base=str(llava_checkpoint))
    for name in ("whole", "modules"):
        other = type(model).from_pretrained(tmp_path / name) if name == "whole" else None
        if other is None:
            _, other, _, _ = pvit_ext.load_pretrained_model(str(tmp_path / name), device="cpu")
        assert torch.equal(other.get_model().region_encoder.layer.weight, layer.weight), name


def test_attach_beside_a_head_on_the_disk(embedded: Any, tmp_path: Path) -> None:
    """``device_map`` leaves its weights on the meta device, where region modules went as well."""
    saved = save(embedded, tmp_path / "saved")
    places = {"model": "cpu", "lm_head": "disk"}
    model = load(saved, region_config=config(), device_map=places, offload_folder=str(tmp_path / "disk"))
    assert torch.equal(logits(model), logits(load(saved)))
