"""Checkpoints of both hosts: what is saved is what is loaded, whole, as region files, and by file name and checksum."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import pvit_ext
from pvit_ext.files import sha256_file
from pvit_ext.tokens.serialization import CONFIG_FILE, MODULES_FILE, read_region_config
from tests.checkpoints import OPTIONS, config, randomize
from tests.hosts.tiny_hosts import MIXED, PLAIN, SAVED, Parts, TinyHost, batch_of, load, logits, plain, save
from tests.tiny import HALF_DTYPES

pytestmark = pytest.mark.parametrize("host", SAVED, indirect=True)
REGIONCLIP = config()


def says(parts: Parts) -> Tensor:
    """Logits of a batch with regions."""
    for parameter in parts.model.parameters():
        # safetensors maps files: the same values at another offset take another kernel of MKL (measured, 9e-8 apart)
        parameter.data = parameter.data.clone()
    return logits(parts.model, batch_of(parts, MIXED))


@pytest.fixture
def embedded(host: TinyHost) -> Parts:
    return randomized(host.attached(REGIONCLIP))


@pytest.fixture
def named(host: TinyHost, regionclip_weights: Path) -> Parts:
    return randomized(host.attached(config(weights=str(regionclip_weights))))


def randomized(parts: Parts) -> Parts:
    randomize(parts.model)
    return parts


def saved_config(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "config.json").read_text())
    values.pop("_name_or_path", None)  # older transformers write where a model came from
    for nested in values.values():
        if isinstance(nested, dict):
            nested.pop("dtype", None)  # written once the parts were loaded
    return values


def rename(folder: Path, **values: Any) -> Path:
    """Change what a saved checkpoint's config says of its regions."""
    found = json.loads((folder / "config.json").read_text())
    found["pvit_ext"].update(values)
    (folder / "config.json").write_text(json.dumps(found))
    return folder


def tensor_names(folder: Path, host: TinyHost) -> set[str]:
    """Region tensors of a whole checkpoint, by their names in region files."""
    names = {name for file in folder.glob("*.safetensors") for name in load_file(file)}
    return {name.removeprefix(host.prefix) for name in names if name.startswith(f"{host.prefix}region_")}


# Whole checkpoints


def test_an_encoder_in_the_checkpoint(host: TinyHost, embedded: Parts, tmp_path: Path) -> None:
    expected = says(embedded)
    saved = save(host, embedded, tmp_path / "saved")
    assert any(name.startswith("region_encoder.") for name in tensor_names(saved, host))
    assert torch.equal(says(load(saved)), expected)
    again = save(host, load(saved), tmp_path / "again")
    assert torch.equal(says(load(again)), expected)
    assert saved_config(saved) == saved_config(again)


def test_an_encoder_of_a_file_is_named_and_not_copied(
    host: TinyHost, named: Parts, regionclip_weights: Path, tmp_path: Path
) -> None:
    expected = says(named)
    saved = save(host, named, tmp_path / "saved")
    parts = ("features.weight", "features.bias", "box_embedding.weight", "box_embedding.bias", "delimiters.weight")
    assert tensor_names(saved, host) == {f"region_projector.{part}" for part in parts}
    stored = saved_config(saved)["pvit_ext"]
    assert (stored["weights"], stored["weights_sha256"]) == (str(regionclip_weights), sha256_file(regionclip_weights))
    assert torch.equal(says(load(saved)), expected)


def test_a_relative_weights_file_is_found_from_another_folder(
    host: TinyHost, regionclip_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(regionclip_weights.parent)
    parts = host.attached(config(weights=regionclip_weights.name))
    save(host, parts, tmp_path / "saved")
    monkeypatch.chdir(tmp_path)
    assert torch.equal(says(load(tmp_path / "saved")), says(parts))


def test_an_encoder_of_a_file_is_copied_on_request(host: TinyHost, regionclip_weights: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(regionclip_weights, tmp_path / "deleted.pth"))
    parts = randomized(host.attached(config(weights=str(copy), embed_weights=True)))
    expected = says(parts)
    saved = save(host, parts, tmp_path / "saved")
    copy.unlink()
    assert torch.equal(says(load(saved)), expected)


@pytest.mark.parametrize("place", ["beside", "variable"])
def test_a_moved_file_is_found(
    host: TinyHost, named: Parts, regionclip_weights: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = rename(save(host, named, tmp_path / "saved"), weights=f"/nowhere/{regionclip_weights.name}")
    shutil.copy(regionclip_weights, saved if place == "beside" else tmp_path)
    monkeypatch.setenv("PVIT_EXT_WEIGHTS", str(tmp_path))
    assert torch.equal(says(load(saved)), says(named))


def test_a_missing_file_lists_where_it_was_looked_for(
    host: TinyHost, named: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = rename(save(host, named, tmp_path / "saved"), weights="/nowhere/tower.pth")
    monkeypatch.setenv("PVIT_EXT_WEIGHTS", str(tmp_path / "weights"))
    with pytest.raises(FileNotFoundError) as caught:
        load(saved)
    for place in ("/nowhere/tower.pth", saved / "tower.pth", tmp_path / "weights" / "tower.pth", "PVIT_EXT_WEIGHTS"):
        assert str(place) in str(caught.value)


def test_a_changed_file_is_an_error_with_both_checksums(
    host: TinyHost, named: Parts, regionclip_weights: Path, tmp_path: Path
) -> None:
    changed = torch.load(regionclip_weights)
    changed["model"]["backbone.conv1.weight"] += 1
    torch.save(changed, tmp_path / "changed.pth")
    saved = rename(save(host, named, tmp_path / "saved"), weights=str(tmp_path / "changed.pth"))
    with pytest.raises(ValueError, match="sha256") as caught:
        load(saved)
    assert sha256_file(regionclip_weights) in str(caught.value)
    assert sha256_file(tmp_path / "changed.pth") in str(caught.value)


@HALF_DTYPES
def test_half_precision(host: TinyHost, embedded: Parts, tmp_path: Path, dtype: torch.dtype) -> None:
    half = load(save(host, embedded, tmp_path / "single"), dtype=dtype)
    expected = says(half)
    loaded = load(save(host, half, tmp_path / "half"), dtype=dtype)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}
    assert torch.equal(says(loaded), expected)


@pytest.mark.parametrize("kind", ["embedded", "named"])
def test_every_region_tensor_is_what_was_saved(
    host: TinyHost, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    parts = request.getfixturevalue(kind)
    saved = save(host, parts, tmp_path, max_shard_size="100KB")
    assert len(list(saved.glob("*.safetensors"))) > 1
    before = region_tensors(parts)
    whole = type(parts.model).from_pretrained(pretrained_model_name_or_path=str(saved))
    for loaded in (load(saved), parts._replace(model=whole)):
        after = region_tensors(loaded)
        assert before.keys() == after.keys()
        assert all(torch.equal(value, after[key]) for key, value in before.items())
        assert not any(parameter.is_meta for parameter in loaded.model.parameters())
        modules = loaded.model.region_module
        trains = {name for name, one in modules.region_encoder.named_parameters() if one.requires_grad}
        assert not trains, "a frozen encoder came back trainable"
        assert all(parameter.requires_grad for parameter in modules.region_projector.parameters())


def region_tensors(parts: Parts) -> dict[str, Tensor]:
    return {key: value for key, value in parts.model.state_dict().items() if "region_" in key}


def test_the_stock_class_loads_the_folder_without_regions(host: TinyHost, embedded: Parts, tmp_path: Path) -> None:
    batch = plain(batch_of(embedded, PLAIN))
    expected = logits(embedded.model, batch)
    stock = host.stock(save(host, embedded, tmp_path))
    assert not hasattr(stock, "region_module")
    assert torch.equal(logits(stock, batch), expected)


def drop(folder: Path, part: str) -> None:
    """Take tensors out of a checkpoint's file."""
    file = folder / "model.safetensors"
    tensors = {key: value for key, value in load_file(file).items() if part not in key}
    save_file(tensors, file, metadata={"format": "pt"})


def test_a_box_embedding_that_the_checkpoint_lacks_is_zero(host: TinyHost, embedded: Parts, tmp_path: Path) -> None:
    saved = save(host, embedded, tmp_path)
    drop(saved, "box_embedding")
    embedding = load(saved).model.region_module.region_projector.box_embedding
    assert not embedding.weight.any()
    assert not embedding.bias.any()


@pytest.mark.parametrize("part", ["region_projector.features.bias", "delimiters", "region_encoder.", "region_"])
def test_missing_region_tensors_are_an_error(host: TinyHost, embedded: Parts, tmp_path: Path, part: str) -> None:
    saved = save(host, embedded, tmp_path)
    drop(saved, part)
    with pytest.raises(ValueError, match=rf"lacks its tensors .*{part}"):
        load(saved)


def test_an_unknown_config_key_is_an_error(host: TinyHost, embedded: Parts, tmp_path: Path) -> None:
    saved = rename(save(host, embedded, tmp_path), from_the_future=1)
    with pytest.raises(ValueError, match="from_the_future"):
        load(saved)


# Region files


@pytest.mark.parametrize("kind", ["embedded", "named"])
def test_region_files_round_trip(host: TinyHost, kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    parts, base = request.getfixturevalue(kind), str(host.folder())
    pvit_ext.save_region_modules(parts.model, tmp_path / "one", base=base)
    loaded = load(tmp_path / "one")
    assert torch.equal(says(loaded), says(parts))
    pvit_ext.save_region_modules(loaded.model, tmp_path / "two", base=base)
    for name in (MODULES_FILE, CONFIG_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted([MODULES_FILE, CONFIG_FILE])


def test_a_region_file_holds_region_tensors_only(host: TinyHost, named: Parts, tmp_path: Path) -> None:
    pvit_ext.save_region_modules(named.model, tmp_path)
    with safe_open(tmp_path / MODULES_FILE, "pt") as file:
        assert {name.split(".")[0] for name in file.keys()} == {"region_projector"}  # noqa: SIM118
    model = named.model
    assert read_region_config(tmp_path) == (model.region_config, None, model.region_module.facts)


@pytest.mark.parametrize("encoder", ["osprey", "regionclip"])
def test_region_files_that_hold_the_encoder_need_no_weights_file(
    host: TinyHost, encoder: str, regionclip_weights: Path, tmp_path: Path
) -> None:
    """Osprey trains, so its tensors are saved whatever file it started from."""
    weights, options = tmp_path / "weights.pt", {"position_grid": 8}
    if encoder == "osprey":
        start = host.attached(pvit_ext.RegionConfig(encoder, encoder_options=options)).model
        torch.save(start.region_module.region_encoder.original_state_dict(), weights)
        given = pvit_ext.RegionConfig(encoder, weights=str(weights), encoder_options=options)
    else:
        weights.write_bytes(regionclip_weights.read_bytes())
        given = config(weights=str(weights), embed_weights=True)
    parts = host.attached(given)
    pvit_ext.save_region_modules(parts.model, tmp_path / "modules", base=str(host.folder()))
    weights.unlink()
    assert torch.equal(says(load(tmp_path / "modules")), says(parts))
    with pytest.raises(FileNotFoundError, match="weights of the region encoder not found") as found:
        host.attached(parts.model.region_config)
    cure = "may start without: give no weights (training: --region_weights '')"
    assert (cure in str(found.value)) == (encoder == "osprey")
    source = "of the encoder's release (github.com/microsoft/RegionCLIP); name it as weights (training: "
    assert (source in str(found.value)) == (encoder == "regionclip")
    assert ("osprey needs no file (of a recipe REGION_ENCODER=osprey)" in str(found.value)) == (encoder == "regionclip")


def test_region_files_without_a_base(host: TinyHost, named: Parts, tmp_path: Path) -> None:
    pvit_ext.save_region_modules(named.model, tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"base=\.\.\."):
        load(tmp_path / "none")
    assert torch.equal(says(load(tmp_path / "none", base=str(host.folder()))), says(named))
    pvit_ext.save_region_modules(named.model, tmp_path / "moved", base="/nowhere/llava")
    with pytest.raises(FileNotFoundError, match=r"/nowhere/llava, which is not there.*base=\.\.\."):
        load(tmp_path / "moved")


def test_a_box_embedding_may_be_added_between_the_stages(host: TinyHost, tmp_path: Path) -> None:
    first = host.attached(config(box_embedding=False))
    pvit_ext.save_region_modules(first.model, tmp_path)
    second = host.attached(config())
    pvit_ext.load_region_modules(second.model, tmp_path)
    assert torch.equal(says(first), says(second))


def test_differences_are_listed_and_nothing_is_loaded(host: TinyHost, embedded: Parts, tmp_path: Path) -> None:
    pvit_ext.save_region_modules(embedded.model, tmp_path)
    narrow = {**OPTIONS, "output_dim": 12}
    other = host.attached(replace(REGIONCLIP, encoder_options=narrow, delimiters=False, projector="linear")).model
    before, width = other.region_module.tensors(), other.get_input_embeddings().embedding_dim
    with pytest.raises(ValueError, match="nothing was loaded") as caught:
        pvit_ext.load_region_modules(other, tmp_path)
    message = str(caught.value)
    assert " unexpected: region_projector.delimiters.weight" in message
    assert f"region_projector.features.weight ({width}, 24) instead of ({width}, 12)" in message
    after = other.region_module.tensors()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
