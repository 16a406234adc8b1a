"""Data, caches and flags of the tests of ``--region_cache``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.cli.parser import main
from pvit_ext.encoders.own_tower import TowerEncoder
from pvit_ext.encoders.regionclip.encoder import RegionCLIP
from tests.checkpoints import OPTIONS
from tests.samples import write_training_data


def write_data(folder: Path) -> Path:
    """Eight records with regions, and one of text alone."""
    path = write_training_data(folder)
    turns = [{"from": "human", "value": "What is this?"}, {"from": "gpt", "value": "seven red"}]
    path.write_text(json.dumps([*json.loads(path.read_text()), {"conversations": turns}]))
    return path


def make_cache(folder: Path, data: Path, weights: Path, dtype: str) -> Path:
    words = ["data", "cache", str(data), "--image-folder", str(data.parent), "--out", str(folder), "--dtype", dtype]
    assert main([*words, "--weights", str(weights), "--encoder-options", json.dumps(OPTIONS)]) == 0
    return folder


def changed(weights: Path, cache: Path | None, **more: Any) -> dict[str, Any]:
    values = {
        "stage": "align", "region_weights": weights, "region_encoder_options": json.dumps(OPTIONS), "max_steps": 9,
        "per_device_train_batch_size": 1, "region_jitter": 0.2, "logging_steps": 1, "region_encoder": "regionclip",
    }  # fmt: skip
    return values | ({} if cache is None else {"region_cache": cache}) | more


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def refuse_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when an image is resized for the tower, or anything goes through it, even in a batch without regions."""

    def fail(*_: Any) -> None:
        raise AssertionError("the tower's pixels were made")

    monkeypatch.setattr(TowerEncoder, "preprocess", fail)
    monkeypatch.setattr(RegionCLIP, "run_tower", fail)
