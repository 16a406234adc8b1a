"""A registered vision tower: built by name, trained, kept in the checkpoint, and read by osprey as a pyramid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import pvit_ext
from pvit_ext import Query, Region
from tests.samples import write_training_data
from tests.training.runs import flags, run

PLUGIN = ["--plugin", "tests.pyramid_tower"]
OSPREY = {"region_encoder": "osprey", "region_encoder_options": json.dumps({"hidden": 16, "position_grid": 8})}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def base(llava_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model alone."""
    folder = tmp_path_factory.mktemp("base") / "language"
    folder.mkdir()
    values = json.loads((llava_checkpoint / "config.json").read_text())
    kept = {key: value for key, value in values.items() if not key.startswith(("mm_", "use_mm", "image_", "tune"))}
    (folder / "config.json").write_text(
        json.dumps(kept | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    )
    tensors = load_file(llava_checkpoint / "model.safetensors")
    language = {key: value for key, value in tensors.items() if "vision_tower" not in key and "mm_projector" not in key}
    save_file(language, folder / "model.safetensors", {"format": "pt"})
    for path in llava_checkpoint.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def train(base: Path, data: Path, output: Path, tower: str, stage: str = "finetune", **changed: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        words = flags(base, data, output, stage=stage, **{**OSPREY, "vision_tower": tower, **changed})
        return run(patch, [*PLUGIN, *words])


def tower_state(model: Any) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.get_vision_tower().state_dict().items()}


@pytest.fixture(scope="module")
def trained(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    output = tmp_path_factory.mktemp("trained")
    trainer = train(base, data, output, "test_pyramid:7", per_device_train_batch_size=2, num_train_epochs=2)
    return output, trainer.model


def pretrained(seed: int, exact: bool = False) -> dict[str, torch.Tensor]:
    """As a tower starts; without ``--bf16`` LLaVA's train() rounds every tower to float16."""
    import tests.pyramid_tower as plugin

    tower = plugin.PyramidTower(f"test_pyramid:{seed}", None)
    tower.load_pretrained()
    return (tower if exact else tower.half().float()).state_dict()


def test_a_trained_tower_is_read_back_from_the_checkpoint(trained: tuple[Path, Any], data: Path) -> None:
    output, model = trained
    own, start = tower_state(model), pretrained(7)
    assert all(not torch.equal(own[key], value) for key, value in start.items()), "the tower did not train"
    tokenizer, loaded, processor, _ = pvit_ext.load_pretrained_model(str(output), device="cpu")
    found = tower_state(loaded)
    assert own.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in own.items())
    assert loaded.get_vision_tower().vision_tower.scale.item() == 0.5, "a buffer that no checkpoint keeps"
    query = Query(data.parent / "0.png", "What is in <region>?", [Region.box(5, 5, 40, 40)])
    assert len(pvit_ext.ask(loaded, tokenizer, processor, [query], max_new_tokens=2)) == 1
    maps = model.get_model().region_encoder
    assert (maps.feature_layers, maps.strides) == ((0, 1, 2), (2.0, 4.0, 8.0))
    assert [level.in_features for level in maps.levels] == [8, 16, 32]


def test_training_goes_on_from_the_checkpoints_tower(trained: tuple[Path, Any], data: Path, tmp_path: Path) -> None:
    """In stage 1 it is frozen, batch norms included."""
    output, model = trained
    own = tower_state(model)
    changed = {"vision_tower": "test_pyramid:7", "region_encoder": "osprey"}
    found = tower_state(train(output, data, tmp_path / "out", stage="align", tower="test_pyramid:7", **changed).model)
    assert all(torch.equal(value.half().float(), found[key].float()) for key, value in own.items())
    with pytest.raises(ValueError, match=r"--vision_tower test_pyramid:8, but the checkpoint has .*test_pyramid:7"):
        train(output, data, tmp_path / "other", tower="test_pyramid:8")


@pytest.mark.parametrize("stage", ["from a language model", "from a checkpoint"])
def test_with_lora_a_tower_stays_frozen_and_that_is_said(
    stage: str, base: Path, data: Path, tmp_path: Path, trained: tuple[Path, Any], caplog: pytest.LogCaptureFixture
) -> None:
    source = base if stage == "from a language model" else trained[0]
    lora = {"lora_enable": True, "lora_r": 2, "region_encoder": "osprey"}
    model = train(source, data, tmp_path / "lora", "test_pyramid:7", **lora).model
    tower = model.get_base_model().get_vision_tower()
    assert "the vision tower test_pyramid:7 stays frozen" in caplog.text
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    expected = pretrained(7) if source == base else {k: v.half().float() for k, v in tower_state(trained[1]).items()}
    assert all(torch.equal(tower.state_dict()[key].float(), value.float()) for key, value in expected.items())
    model.get_base_model().get_model().train()
    assert not any(module.training for module in tower.modules()), "whoever calls train()"


def test_a_frozen_tower_and_one_that_the_checkpoint_lacks(
    base: Path, data: Path, tmp_path: Path, trained: tuple[Path, Any]
) -> None:
    output = tmp_path / "frozen"
    train(base, data, output, "test_frozen_pyramid:3")
    expected = pretrained(3)
    for folder in (output, output):
        state = tower_state(pvit_ext.load_pretrained_model(str(folder), device="cpu")[1])
        assert all(torch.equal(state[key].float(), value) for key, value in expected.items() if "norm" not in key)
        tensors = load_file(output / "model.safetensors")
        rest = {key: value for key, value in tensors.items() if "vision_tower" not in key}
        save_file(rest, output / "model.safetensors", {"format": "pt"})
        expected = pretrained(3, exact=True)


def test_a_checkpoint_that_lacks_a_part_of_its_tower_is_refused(trained: tuple[Path, Any], tmp_path: Path) -> None:
    output, _ = trained
    folder = tmp_path / "part"
    folder.mkdir()
    for path in output.glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "tokenizer.model").write_bytes((output / "tokenizer.model").read_bytes())
    tensors = load_file(output / "model.safetensors")
    name = next(key for key in tensors if "vision_tower" in key)
    save_file(
        {key: value for key, value in tensors.items() if key != name}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ValueError, match=f"holds its vision tower, but lacks .*{name}"):
        pvit_ext.load_pretrained_model(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("encoder", "options"), [("gpt4roi", {}), ("ferret", {"layer": 0}), ("osprey", {"layers": [3]})]
)
def test_maps_that_an_encoder_cannot_read_are_refused(trained: tuple[Path, Any], encoder: str, options: Any) -> None:
    model = pvit_ext.load_pretrained_model(str(trained[0]), device="cpu")[1]
    with pytest.raises(ValueError, match=r"reads maps of width 32 and stride 8.*osprey|feature maps -3 to 2"):
        pvit_ext.attach(model, pvit_ext.RegionConfig(encoder, encoder_options=options))
