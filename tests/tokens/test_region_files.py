"""Files of region modules alone: what they hold, and on what they load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import pvit_ext
from pvit_ext.tokens.serialization import CONFIG_FILE, MODULES_FILE, read_region_config
from tests.checkpoints import config, load, logits

# Region files


@pytest.mark.parametrize("kind", ["embedded", "named"])
def test_region_files_round_trip(
    kind: str, request: pytest.FixtureRequest, llava_checkpoint: Path, tmp_path: Path
) -> None:
    model = request.getfixturevalue(kind)
    pvit_ext.save_region_modules(model, tmp_path / "one", base=str(llava_checkpoint))
    loaded = load(tmp_path / "one")
    assert torch.equal(logits(loaded), logits(model))
    pvit_ext.save_region_modules(loaded, tmp_path / "two", base=str(llava_checkpoint))
    for name in (MODULES_FILE, CONFIG_FILE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted([MODULES_FILE, CONFIG_FILE])


def test_region_file_holds_region_tensors_only(named: Any, tmp_path: Path) -> None:
    pvit_ext.save_region_modules(named, tmp_path)
    with safe_open(tmp_path / MODULES_FILE, "pt") as file:
        assert {name.split(".")[0] for name in file.keys()} == {"region_projector"}  # noqa: SIM118
    assert read_region_config(tmp_path) == (named.region_config, None, named.region_module.facts)


@pytest.mark.parametrize("encoder", ["osprey", "regionclip"])
def test_region_files_that_hold_the_encoder_need_no_weights_file(
    encoder: str, llava_checkpoint: Path, regionclip_weights: Path, tmp_path: Path
) -> None:
    """Osprey trains, so its tensors are saved whatever file it started from."""
    weights, options = tmp_path / "weights.pt", {"position_grid": 8}
    if encoder == "osprey":
        start = load(llava_checkpoint, region_config=pvit_ext.RegionConfig(encoder, encoder_options=options))
        torch.save(start.get_model().region_encoder.original_state_dict(), weights)
        given = pvit_ext.RegionConfig(encoder, weights=str(weights), encoder_options=options)
    else:
        weights.write_bytes(regionclip_weights.read_bytes())
        given = config(weights=str(weights), embed_weights=True)
    model = load(llava_checkpoint, region_config=given)
    pvit_ext.save_region_modules(model, tmp_path / "modules", base=str(llava_checkpoint))
    weights.unlink()
    assert torch.equal(logits(load(tmp_path / "modules")), logits(model))
    with pytest.raises(FileNotFoundError, match="weights of the region encoder not found"):
        pvit_ext.attach(load(llava_checkpoint), model.region_config)


def test_region_files_without_a_base(named: Any, llava_checkpoint: Path, tmp_path: Path) -> None:
    pvit_ext.save_region_modules(named, tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"base=\.\.\."):
        load(tmp_path / "none")
    assert torch.equal(logits(load(tmp_path / "none", base=str(llava_checkpoint))), logits(named))
    pvit_ext.save_region_modules(named, tmp_path / "moved", base="/nowhere/llava")
    with pytest.raises(FileNotFoundError, match=r"/nowhere/llava, which is not there.*base=\.\.\."):
        load(tmp_path / "moved")


def test_write_false_writes_nothing(named: Any, tmp_path: Path) -> None:
    pvit_ext.save_region_modules(named, tmp_path, write=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("crash_at", [MODULES_FILE, CONFIG_FILE])
def test_interrupted_save_is_no_checkpoint(
    named: Any, tmp_path: Path, crash_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over an older save: never the tensors of one save beside the config of another."""
    pvit_ext.save_region_modules(named, tmp_path)
    replace = Path.replace

    def crash(self: Path, target: Path) -> Path:
        if Path(target).name == crash_at:
            raise OSError("power cut")
        return replace(self, target)

    pvit_ext.attach(named, config(weights=named.region_config.weights, delimiters=False))
    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        pvit_ext.save_region_modules(named, tmp_path)
    monkeypatch.undo()
    assert not [path for path in tmp_path.iterdir() if "tmp" in path.name]
    with pytest.raises(FileNotFoundError, match="interrupted"):
        read_region_config(tmp_path)
    pvit_ext.save_region_modules(named, tmp_path)
    assert read_region_config(tmp_path)[0] == named.region_config


def test_box_embedding_may_be_added_between_the_stages(llava_checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    stage1 = load(llava_checkpoint, region_config=config(box_embedding=False))
    pvit_ext.save_region_modules(stage1, tmp_path)
    stage2 = load(llava_checkpoint, region_config=config())
    pvit_ext.load_region_modules(stage2, tmp_path)
    assert torch.equal(logits(stage1), logits(stage2))
