"""A folder with the results of two runs is told from one with one, and what is said to do about it works."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pvit_ext.config import CONFIG_KEY, EncoderFacts, RegionConfig, regions_to_json
from pvit_ext.hosts.checkpoint_kind import CHECKPOINT, LORA, REGIONS, find_kind, results_in

REGION_FILES = ("region_config.json", "region_modules.safetensors")
LORA_FILES = ("adapter_config.json", "adapter_model.safetensors", "non_lora_trainables.bin")


def write(folder: Path, *kinds: str) -> Path:
    """The names of files that runs leave in a folder, the last of them over those before; the weights are empty."""
    folder.mkdir(exist_ok=True)
    base = folder.parent / "base"
    base.mkdir(exist_ok=True)
    for kind in kinds:
        names = {CHECKPOINT: ("model.safetensors",), LORA: (*REGION_FILES, *LORA_FILES), REGIONS: REGION_FILES}[kind]
        for name in (*names, "config.json"):
            (folder / name).write_text("{}")
        if kind == CHECKPOINT:
            continue
        regions = regions_to_json(RegionConfig("osprey"), EncoderFacts(8, 1, None))
        values = {"base": str(base), "adapter": kind == LORA, CONFIG_KEY: regions}
        (folder / "region_config.json").write_text(json.dumps(values))
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
        if kind == REGIONS:
            (folder / "adapter_config.json").unlink()
    return folder


@pytest.mark.parametrize("kind", [CHECKPOINT, LORA, REGIONS])
def test_one_result_is_no_question(kind: str, tmp_path: Path) -> None:
    assert list(results_in(write(tmp_path / "one", kind))) == [kind]
    assert results_in(tmp_path / "nowhere") == {}
    found = find_kind(str(write(tmp_path / "one", kind)))
    assert (found.base is None, found.adapter, found.regions) == (kind == CHECKPOINT, kind == LORA, kind != CHECKPOINT)


def test_llavas_projector_goes_with_a_whole_checkpoint(tmp_path: Path) -> None:
    (write(tmp_path / "stage0", CHECKPOINT) / "mm_projector.bin").write_bytes(b"")
    assert list(results_in(tmp_path / "stage0")) == [CHECKPOINT]
    assert str(find_kind(str(tmp_path / "stage0"))).endswith("stage0: a whole checkpoint")


@pytest.mark.parametrize(
    "kinds", [(LORA, CHECKPOINT), (CHECKPOINT, LORA), (REGIONS, CHECKPOINT), (CHECKPOINT, REGIONS)]
)
def test_a_whole_checkpoint_among_other_files_may_be_either(kinds: tuple[str, str], tmp_path: Path) -> None:
    folder = write(tmp_path / "both", *kinds)
    other = LORA if LORA in kinds else REGIONS
    marks = r"region_config\.json, adapter_config\.json" if other == LORA else r"region_config\.json"
    with pytest.raises(
        ValueError, match=rf"holds a whole checkpoint \(model\.safetensors\) and {other} beside"
    ) as found:
        find_kind(str(folder))
    assert f"remove {marks} to load" in str(found.value).replace(".", r"\.")
    moved = str(found.value).partition("or move ")[2].partition(" to a folder")[0].split(", ")
    apart = tmp_path / "apart"
    apart.mkdir()
    for name in moved:
        shutil.move(folder / name, apart)
    if other == LORA:
        shutil.copy(folder / "config.json", apart)
    assert find_kind(str(folder)).base is None
    assert find_kind(str(apart)).adapter == (other == LORA)
    assert find_kind(str(apart)).regions


def test_an_adapter_beside_weights_is_not_left_to_transformers(tmp_path: Path) -> None:
    """Its from_pretrained would put a stray adapter on whatever weights lie there."""
    folder = write(tmp_path / "both", LORA, CHECKPOINT)
    for name in REGION_FILES:
        (folder / name).unlink()
    for base in (None, str(tmp_path / "base")):
        with pytest.raises(ValueError, match=r"remove adapter_config\.json to load the checkpoint"):
            find_kind(str(folder), base)
    (folder / "adapter_config.json").unlink()
    assert find_kind(str(folder)).base is None
