"""What was trained on one LLaVA, put on another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import pvit_ext
from pvit_ext.hosts.checkpoint_kind import CheckpointKind
from pvit_ext.hosts.loading import fitting
from tests.checkpoints import config, load
from tests.hosts.llava.test_checkpoint_kinds import stock_lora
from tests.tiny import build_llava


@pytest.mark.parametrize("kind", ["lora", "regions"])
def test_a_base_of_another_size_is_one_line(llava_checkpoint: Path, tmp_path: Path, kind: str) -> None:
    if kind == "lora":
        folder, _ = stock_lora(llava_checkpoint, tmp_path / "lora")
    else:
        folder = tmp_path / "regions"
        pvit_ext.save_region_modules(load(llava_checkpoint, region_config=config()), folder, str(llava_checkpoint))
        shutil.copy(llava_checkpoint / "config.json", folder)  # as stage 1 writes it
    wide = build_llava(tmp_path / "wide", hidden_size=64, intermediate_size=128)
    message = rf"{kind} does not fit its base, .*wide: .*; it was trained on {llava_checkpoint}, name that or"
    with pytest.raises(ValueError, match=message) as raised:
        load(folder, base=str(wide))
    assert "\n" not in str(raised.value)


def test_another_mismatch_says_nothing_of_the_base() -> None:
    """As of CUDA's libraries, where a model is loaded onto a GPU."""
    with pytest.raises(RuntimeError, match="NVML"), fitting(CheckpointKind("lora", base="llava", recorded="llava-7b")):
        raise RuntimeError("Can't initialize NVML: Driver/library version mismatch")
