"""A run with validation records, and what its trackers hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pvit_ext.regions.drawing import COLOURS
from pvit_ext.training import throughput, tracking
from pvit_ext.training.trainer import RegionTrainer
from tests.training.runs import flags, run

BOX = (10, 20, 50, 40)
IMAGE_SIZE = (90, 60)
DRAWN_SIZE = (512, 341)


def train(patch: pytest.MonkeyPatch, checkpoint: Path, world: Path, output: Path, **changed: Any) -> Any:
    """2 epochs of 8 records, 2 a micro-batch, 2 micro-batches a step; its clock ticks only in the methods below."""
    clock = [0.0]
    patch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    for cls, name, seconds in (
        (RegionTrainer, "training_step", 1),
        (RegionTrainer, "_save_checkpoint", 100),
        (tracking.Tracking, "_answer", 1000),
    ):
        patch.setattr(cls, name, ticking(getattr(cls, name), clock, seconds))
    values = {
        "stage": "align", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 2,
        "save_strategy": "steps", "save_steps": 3, "logging_steps": 1,
    }  # fmt: skip
    return run(patch, flags(checkpoint, world / "train.json", output, **(values | changed)))


def ticking(function: Any, clock: list[float], seconds: float) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        clock[0] += seconds
        return function(self, *args, **kwargs)

    return call


def history(trainer: Any, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(logs[name] for name in names) for logs in trainer.state.log_history if "loss" in logs]


def without_wandb_settings(patch: pytest.MonkeyPatch, folder: Path) -> None:
    wandb = pytest.importorskip("wandb")
    wandb.teardown()
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        patch.delenv(name, raising=False)
    for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR"):
        patch.setenv(f"WANDB_{name}", str(folder))
    patch.setenv("NETRC", str(folder / "netrc"))
    patch.setenv("WANDB_BASE_URL", "http://localhost:9")  # nothing listens there
    patch.setenv("WANDB_SILENT", "true")


def assert_box_drawn(image: Image.Image) -> None:
    assert image.size == DRAWN_SIZE
    pixels, scale = np.array(image), DRAWN_SIZE[0] / IMAGE_SIZE[0]
    x0, y0, x1, y1 = (value * scale for value in BOX)
    middle_x, middle_y = int((x0 + x1) / 2), int((y0 + y1) / 2)
    for x, y in ((x0 + 1.5, middle_y), (x1 - 2, middle_y), (middle_x, y0 + 1.5), (middle_x, y1 - 2)):
        assert tuple(pixels[int(y), int(x)]) == COLOURS[0]
    for x, y in ((middle_x, middle_y), (x0 - 3, middle_y), (x1 + 3, middle_y), (middle_x, y1 + 3)):
        assert tuple(pixels[int(y), int(x)]) != COLOURS[0]
