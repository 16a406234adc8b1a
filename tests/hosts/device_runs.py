"""Short training runs of either host in this process, on a device."""

from __future__ import annotations

import sys
from functools import partialmethod
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch

from tests.tiny import build_llava


class Trained(NamedTuple):
    """What a run left.

    Attributes:
        losses: one a step.
        moved: how far the furthest value of each trained tensor came.
        device: of the model when it trained.
    """

    losses: list[float]
    moved: dict[str, float]
    device: str


def command_line(host: str, folder: Path, values: dict[str, Any]) -> list[str]:
    """Flags of a run on a tiny checkpoint and eight records of its host."""
    if host == "llava":
        from tests.samples import write_training_data
        from tests.training.runs import flags

        return flags(build_llava(folder / "stock"), write_training_data(folder / "data"), folder / "out", **values)
    from tests.training.test_transformers_host import flags, save_stock, write_records

    return flags(save_stock("llava", folder / "stock"), write_records(folder / "data"), folder / "out", **values)


def train(host: str, words: list[str], device: str, monkeypatch: pytest.MonkeyPatch) -> Trained:
    """Run ``pvit_ext.train`` in this process."""
    from pvit_ext.train import main as train_main

    if host == "llava":
        from pvit_ext.training.llava.host import LlavaHost as kind
    else:
        from pvit_ext.training.transformers.host import TransformersHost as kind
    seen: dict[str, Any] = {}

    def keep(own: Any, *given: Any, make: Any) -> Any:
        seen["trainer"] = trainer = make(own, *given)
        trained = ((name, one) for name, one in trainer.model.named_parameters() if one.requires_grad)
        seen["before"] = {name: one.detach().float().cpu().clone() for name, one in trained}
        return trainer

    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # transformers 4 sets it by --bf16, and keeps it
    with mock.patch.object(kind, "make_trainer", partialmethod(keep, make=kind.make_trainer)):
        monkeypatch.setattr(sys, "argv", ["train", *words, *on_the_cpu(device)])
        train_main()
    after, trainer = dict(seen["trainer"].model.named_parameters()), seen["trainer"]
    moved = {
        name: float((after[name].detach().float().cpu() - one).abs().max()) for name, one in seen["before"].items()
    }
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return Trained(losses, moved, trainer.args.device.type)


def on_the_cpu(device: str) -> list[str]:
    return ["--use_cpu", "True"] if device == "cpu" and torch.cuda.is_available() else []
