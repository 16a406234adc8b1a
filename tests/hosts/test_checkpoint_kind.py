"""A folder with the results of two runs is told from one with one, and what is said to do about it works."""

from __future__ import annotations

import json
import re
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
    "kinds", [(LORA, CHECKPOINT), (CHECKPOINT, LORA), (REGIONS, CHECKPOINT), (CHECKPOINT, REGIONS), (LORA, REGIONS)]
)
def test_results_of_two_runs_in_a_folder_may_be_either(kinds: tuple[str, str], tmp_path: Path) -> None:
    folder = write(tmp_path / "both", *kinds)
    if kinds == (LORA, REGIONS):  # whose run left the adapter's files where they were
        write(tmp_path / "of lora", LORA)
        shutil.copy(tmp_path / "of lora" / "adapter_config.json", folder)
    first, second = (kind for kind in (CHECKPOINT, LORA, REGIONS) if kind in kinds)
    with pytest.raises(ValueError, match=rf"both holds {first} and {second} \(.*\), and either may") as found:
        find_kind(str(folder))
    removed, moved = re.findall(r"(?:remove|or move) (\S+(?:, \S+)*) to ", str(found.value))
    apart, rest = tmp_path / "apart", tmp_path / "rest"
    apart.mkdir()
    shutil.copytree(folder, rest)
    for name in removed.split(", "):
        (rest / name).unlink()
    for name in moved.split(", "):
        shutil.move(folder / name, apart)
    if "with a copy of config.json" in str(found.value):
        shutil.copy(folder / "config.json", apart)
    assert ("copy of config.json" in str(found.value)) == (LORA in kinds)
    for kept in (folder, rest):
        kind = find_kind(str(kept))
        assert (kind.base is None, kind.regions, kind.adapter) == (first == CHECKPOINT, first != CHECKPOINT, False)
    kind = find_kind(str(apart))
    assert (kind.regions, kind.adapter) == (first == CHECKPOINT, LORA in kinds)


def test_no_copy_is_asked_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Region modules alone come without a config.json, and peft writes none beside an adapter."""
    folder = write(tmp_path / "both", LORA, REGIONS)
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "base")}))
    with pytest.raises(ValueError, match="to a folder of their own and load that folder: it is an adapter without"):
        find_kind(str(folder))


def test_an_adapter_trained_together_with_region_modules_goes_on_them(tmp_path: Path) -> None:
    """As is said of a folder with both, once the adapter has a folder of its own."""
    folder = write(tmp_path / "both", LORA, REGIONS)
    write(tmp_path / "of lora", LORA)
    shutil.copy(tmp_path / "of lora" / "adapter_config.json", folder)
    with pytest.raises(ValueError, match=rf"were they trained together, load it with --base {folder} \(base=\)$"):
        find_kind(str(folder))
    (folder / "adapter_config.json").unlink()
    for name in REGION_FILES:
        (tmp_path / "of lora" / name).unlink()
    found = find_kind(str(tmp_path / "of lora"), str(folder))
    assert (found.adapter, found.base) == (True, str(folder))
    assert found.base is not None
    assert find_kind(found.base).regions


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
