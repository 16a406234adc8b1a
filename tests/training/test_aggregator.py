"""Training a vision aggregator: the same losses on any number of ranks, also without an image; exact resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.runs import of_host
from tests.training.test_distributed import losses, world

__all__ = ["world"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["added", "appended"])
def test_losses_do_not_depend_on_how_a_batch_is_spread(world: dict[str, Any], tmp_path: Path, how: str) -> None:
    records = json.loads(world["DATA"].read_text())
    for record in records[1::2]:
        del record["image"], record["regions"]
        record["conversations"][0]["value"] = "What is in this picture?"
    (tmp_path / "data.json").write_text(json.dumps(records))
    some = world | {"DATA": tmp_path / "data.json"}
    own = ("--region_lion_aggregator", how, "--per_device_train_batch_size")
    alone = losses(some, tmp_path / "alone", 1, "zero2.json", *own, 4)
    assert alone[-1] < alone[0] - 1
    spread = {
        "zero2": losses(some, tmp_path / "two", 2, "zero2.json", *own, 1, "--gradient_accumulation_steps", 2),
        "zero3": losses(some, tmp_path / "zero3", 2, "zero3.json", *own, 1, "--gradient_accumulation_steps", 2),
    }
    for name, curve in spread.items():
        assert curve == pytest.approx(alone, abs=5e-3), name


@pytest.fixture(params=["llava", "transformers"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path, Path]:
    """What trains a model of a host, a checkpoint, and records."""
    return of_host(request, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["added", "appended"])
def test_it_trains_is_saved_and_resumes_exactly(
    made: tuple[Any, Path, Path], how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, checkpoint, data = made
    common: dict[str, Any] = {"stage": "align", "region_lion_aggregator": how, "num_train_epochs": 3}
    common |= {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 10}
    whole = host.run(monkeypatch, host.flags(checkpoint, data, tmp_path / "whole", **common))
    steps = whole.state.global_step
    assert steps >= 4
    for folder in (tmp_path / "whole").glob("checkpoint-*"):
        if folder.name == "checkpoint-2":
            (tmp_path / "again").mkdir()
            folder.rename(tmp_path / "again" / folder.name)
    resumed = host.run(monkeypatch, host.flags(checkpoint, data, tmp_path / "again", **common))
    assert resumed.state.global_step == steps
    first, second = (load_file(tmp_path / name / "region_modules.safetensors") for name in ("whole", "again"))
    own = [name for name in first if name.startswith("region_aggregator.")]
    assert any(first[name].any() for name in own if name.startswith("region_aggregator.rows."))
    assert all(torch.equal(first[name], second[name]) for name in first)
