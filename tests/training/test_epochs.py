"""Each epoch has an order of its own and is trained to its end, whatever the accumulation."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pvit_ext.hosts.llava import compat
from pvit_ext.training.sampler import EpochSampler
from tests.training.runs import flags, run


def test_every_epoch_has_an_order_of_its_own(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where accumulation does not divide the micro-batches, which transformers 4.36 takes into the next epoch."""
    orders: list[list[tuple[int, int]]] = []
    iterate = EpochSampler.__iter__
    monkeypatch.setattr(EpochSampler, "__iter__", lambda self: iter(orders.append(list(iterate(self))) or orders[-1]))
    counts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "num_train_epochs": 3}
    run(monkeypatch, flags(llava_checkpoint, data, tmp_path, stage="align", **counts))
    assert [{epoch for epoch, _ in order} for order in orders] == [{0}, {1}, {2}]
    assert len({tuple(index for _, index in order) for order in orders}) == 3


UNEVEN = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}  # four micro-batches in an epoch


@pytest.mark.slow
def test_resuming_is_exact_where_accumulation_does_not_divide_an_epoch(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    changed = {**UNEVEN, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 1, "logging_steps": 1}
    whole, resumed = (
        flags(llava_checkpoint, data, tmp_path / name, stage="align", **changed) for name in ("whole", "resumed")
    )
    steps = run(monkeypatch, whole).state.global_step
    shutil.copytree(tmp_path / "whole" / "checkpoint-1", tmp_path / "resumed" / "checkpoint-1")
    assert run(monkeypatch, resumed).state.global_step == steps > 2
    assert re.search(r"resuming from .*checkpoint-1", capsys.readouterr().out)
    first, second = (load_file(tmp_path / name / "region_modules.safetensors") for name in ("whole", "resumed"))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize(
    ("batch", "epochs", "said"),
    [
        (2, 3, r"the last 2 samples of each epoch's order.* left out.*transformers 5.*accumulation_steps \(now 3\)"),
        (4, 2, r"not be exact.*8 samples in batches of 4 fill no step of 3.*transformers 5"),
    ],
)
def test_an_older_transformers_gets_epochs_of_whole_steps_and_says_so(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch, capsys, batch: int, epochs: int, said: str
) -> None:
    monkeypatch.setattr(compat, "rest_of_epoch_is_a_step", lambda trainer: False)
    changed = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 3, "num_train_epochs": epochs}
    trainer = run(monkeypatch, flags(llava_checkpoint, data, tmp_path, stage="align", **changed))
    assert trainer.state.global_step == epochs or (batch == 4 and trainer.state.global_step > epochs)
    assert len(trainer.get_train_dataloader()) == (3 if batch == 2 else 2)
    assert re.search(said, capsys.readouterr().out)
