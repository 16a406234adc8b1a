"""Checkpoints: what is saved is what is loaded, whole, as region files, and by file name and checksum."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import pvit_ext
from pvit_ext.files import sha256_file
from pvit_ext.hosts.llava.classes import LlavaLlamaForCausalLM
from tests.checkpoints import OPTIONS, config, load, logits, randomize, save
from tests.tiny import HALF_DTYPES


def tensor_names(folder: Path) -> list[str]:
    return [name for file in folder.glob("*.safetensors") for name in load_file(file)]


# Whole checkpoints


def config_of(folder: Path) -> dict[str, Any]:
    values = json.loads((folder / "config.json").read_text())
    values.pop("_name_or_path", None)  # older transformers write where a model came from
    return values


def test_embedded_encoder(embedded: Any, tmp_path: Path) -> None:
    expected = logits(embedded)
    saved = save(embedded, tmp_path / "saved")
    assert any("region_encoder." in name for name in tensor_names(saved))
    assert torch.equal(logits(load(saved)), expected)
    again = save(load(saved), tmp_path / "again")
    assert torch.equal(logits(load(again)), expected)
    assert config_of(saved) == config_of(again)


def test_file_encoder_is_named_not_copied(named: Any, regionclip_weights: Path, tmp_path: Path) -> None:
    expected = logits(named)
    saved = save(named, tmp_path / "saved")
    names = tensor_names(saved)
    assert not [name for name in names if "region_encoder" in name]
    assert {name for name in names if "region_projector" in name} == {
        f"model.region_projector.{part}"
        for part in (
            "features.weight",
            "features.bias",
            "box_embedding.weight",
            "box_embedding.bias",
            "delimiters.weight",
        )
    }
    stored = json.loads((saved / "config.json").read_text())["pvit_ext"]
    assert (stored["weights"], stored["weights_sha256"]) == (str(regionclip_weights), sha256_file(regionclip_weights))
    assert torch.equal(logits(load(saved)), expected)


def test_a_relative_weights_file_is_found_from_another_folder(
    llava_checkpoint: Path, regionclip_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(regionclip_weights.parent)
    named = config(weights=regionclip_weights.name)
    model = load(llava_checkpoint, region_config=named)
    save(model, tmp_path / "saved")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(logits(load(tmp_path / "saved")), logits(model))


def test_file_encoder_embedded_on_request(llava_checkpoint: Path, regionclip_weights: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(regionclip_weights, tmp_path / "gone.pth"))
    model = randomize(load(llava_checkpoint, region_config=config(weights=str(copy), embed_weights=True)))
    expected = logits(model)
    saved = save(model, tmp_path / "saved")
    copy.unlink()
    assert torch.equal(logits(load(saved)), expected)


@pytest.mark.parametrize("place", ["beside", "variable"])
def test_moved_file_is_found(
    named: Any, regionclip_weights: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = logits(named)
    named.config.pvit_ext["weights"] = f"/nowhere/{regionclip_weights.name}"
    saved = save(named, tmp_path / "saved")
    shutil.copy(regionclip_weights, saved if place == "beside" else tmp_path)
    monkeypatch.setenv("PVIT_EXT_WEIGHTS", str(tmp_path))
    assert torch.equal(logits(load(saved)), expected)


def test_missing_file_lists_where_it_looked(named: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named.config.pvit_ext["weights"] = "/nowhere/tower.pth"
    saved = save(named, tmp_path / "saved")
    monkeypatch.setenv("PVIT_EXT_WEIGHTS", str(tmp_path / "weights"))
    with pytest.raises(FileNotFoundError) as caught:
        load(saved)
    for place in ("/nowhere/tower.pth", saved / "tower.pth", tmp_path / "weights" / "tower.pth", "PVIT_EXT_WEIGHTS"):
        assert str(place) in str(caught.value)


def test_changed_file_is_an_error_with_both_checksums(named: Any, regionclip_weights: Path, tmp_path: Path) -> None:
    changed = torch.load(regionclip_weights)
    changed["model"]["backbone.conv1.weight"] += 1
    torch.save(changed, tmp_path / "changed.pth")
    named.config.pvit_ext["weights"] = str(tmp_path / "changed.pth")
    saved = save(named, tmp_path / "saved")
    with pytest.raises(ValueError, match="sha256") as caught:
        load(saved)
    assert sha256_file(regionclip_weights) in str(caught.value)
    assert sha256_file(tmp_path / "changed.pth") in str(caught.value)


@HALF_DTYPES
def test_half_precision(llava_checkpoint: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    original = randomize(load(llava_checkpoint, region_config=config(), dtype=dtype))
    expected = logits(original)
    saved = save(original, tmp_path / "saved")
    model = load(saved, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("kind", ["embedded", "named"])
def test_every_region_tensor_is_what_was_saved(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model = request.getfixturevalue(kind)
    saved = save(model, tmp_path / "saved")
    before = {key: value for key, value in model.state_dict().items() if ".region_" in key}
    for loaded in (load(saved), LlavaLlamaForCausalLM.from_pretrained(pretrained_model_name_or_path=str(saved))):
        after = {key: value for key, value in loaded.state_dict().items() if ".region_" in key}
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[key]) for key, value in before.items())
        assert not any(parameter.is_meta for parameter in loaded.parameters())
        trains = {name for name, p in loaded.get_model().region_encoder.named_parameters() if p.requires_grad}
        assert not trains, "a frozen encoder came back trainable"
        assert all(parameter.requires_grad for parameter in loaded.get_model().region_projector.parameters())


def test_output_loading_info(embedded: Any, tmp_path: Path) -> None:
    saved = save(embedded, tmp_path / "saved")
    loaded, info = LlavaLlamaForCausalLM.from_pretrained(str(saved), output_loading_info=True)
    assert torch.equal(logits(load(saved)), logits(with_tower(loaded)))
    assert not info["missing_keys"]
    assert not [key for key in info["unexpected_keys"] if "region" in key]


def with_tower(model: Any) -> Any:
    model.get_vision_tower().load_model()
    return model.eval()


def test_auto_class(embedded: Any, tmp_path: Path) -> None:
    saved = save(embedded, tmp_path / "saved")
    with pvit_ext.patched():
        model = AutoModelForCausalLM.from_pretrained(str(saved), torch_dtype=torch.float32)
    assert torch.equal(logits(with_tower(model)), logits(embedded))


def drop(folder: Path, part: str) -> None:
    """Take tensors out of a checkpoint's file."""
    file = folder / "model.safetensors"
    tensors = {key: value for key, value in load_file(file).items() if part not in key}
    save_file(tensors, file, metadata={"format": "pt"})


def test_box_embedding_missing_in_the_checkpoint_is_zero(embedded: Any, tmp_path: Path) -> None:
    saved = save(embedded, tmp_path / "saved")
    drop(saved, "box_embedding")
    embedding = load(saved).get_model().region_projector.box_embedding
    assert not embedding.weight.any()
    assert not embedding.bias.any()


@pytest.mark.parametrize("part", ["region_projector.features.bias", "delimiters", "region_encoder.", ".region_"])
def test_missing_region_tensors_are_an_error(embedded: Any, tmp_path: Path, part: str) -> None:
    saved = save(embedded, tmp_path / "saved")
    drop(saved, part)
    with pytest.raises(ValueError, match=rf"lacks its tensors .*{part.removeprefix('.')}"):
        load(saved)


def test_stock_base_under_a_region_config_warns(
    embedded: Any, llava_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """How LLaVA's builder loads LoRA checkpoints: the base's tensors, the output's config, then the other tensors."""
    saved = save(embedded, tmp_path / "saved")
    names = LlavaLlamaForCausalLM.config_class.from_pretrained(str(saved))
    model = LlavaLlamaForCausalLM.from_pretrained(str(llava_checkpoint), config=names)
    assert "random until they are loaded" in caplog.text
    assert not model.get_model().region_projector.box_embedding.weight.any()
    region = {key: value for key, value in embedded.state_dict().items() if ".region_" in key}
    model.load_state_dict(region, strict=False)
    assert torch.equal(logits(with_tower(model)), logits(embedded))


def test_unknown_config_key_is_an_error(embedded: Any, tmp_path: Path) -> None:
    saved = save(embedded, tmp_path / "saved")
    values = json.loads((saved / "config.json").read_text())
    values["pvit_ext"]["from_the_future"] = 1
    (saved / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="from_the_future"):
        load(saved)


def test_differences_are_listed_and_nothing_is_loaded(embedded: Any, llava_checkpoint: Path, tmp_path: Path) -> None:
    pvit_ext.save_region_modules(embedded, tmp_path)
    narrow = config(encoder_options={**OPTIONS, "output_dim": 12}, delimiters=False, projector="linear")
    other = load(llava_checkpoint, region_config=narrow)
    before = other.region_module.tensors()
    with pytest.raises(ValueError, match="nothing was loaded") as caught:
        pvit_ext.load_region_modules(other, tmp_path)
    message = str(caught.value)
    assert " unexpected: region_projector.delimiters.weight" in message
    assert "region_projector.features.weight (48, 24) instead of (48, 12)" in message
    after = other.region_module.tensors()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_partitioned_parameters_are_gathered(embedded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ZeRO-3 marks them; what is written inside the context stays only with a modifier rank."""
    zero = pytest.importorskip("deepspeed").zero
    seen: list[tuple[set[int], int | None]] = []

    @contextmanager
    def gathered(parameters: list[Any], modifier_rank: int | None = None) -> Iterator[None]:
        seen.append(({id(parameter) for parameter in parameters}, modifier_rank))
        yield

    monkeypatch.setattr(zero, "GatheredParameters", gathered)
    parameters = list(embedded.get_model().region_projector.parameters())
    for number, parameter in enumerate(parameters):
        parameter.ds_id = number
    pvit_ext.save_region_modules(embedded, tmp_path)
    pvit_ext.load_region_modules(embedded, tmp_path)
    assert seen == [({id(parameter) for parameter in parameters}, rank) for rank in (None, 0)]


def test_tensors_of_another_memory_layout_are_saved(llava_checkpoint: Path, tmp_path: Path) -> None:
    """safetensors refuses them, and that at the end of a run."""
    model = randomize(load(llava_checkpoint, region_config=config()))
    weight = model.get_model().region_projector.features.weight
    weight.data = weight.data.t().contiguous().t()
    pvit_ext.save_region_modules(model, tmp_path, base=str(llava_checkpoint))
    assert torch.equal(load(tmp_path).get_model().region_projector.features.weight, weight)
