"""A run that is cut off and goes on ends as if it had not been, on both hosts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pvit_ext.adapters.lora import NON_LORA_FILE
from pvit_ext.files import sha256_file
from pvit_ext.training.finished import complete_history
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST
from tests.training import runs

LION = ("lion", "lion_mixed", "lion_lora", "lion_question")
METHODS = ("rslora", "dora", "pissa", "olora")
Start = Callable[..., Any]
"""Trains into a folder with flags, and returns the trainer."""


@pytest.fixture(params=["llava", *["transformers"] * HAS_TRANSFORMERS_HOST])
def start(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Runs on a tiny model of one host."""
    given, checkpoint, data = runs.of_host(request, tmp_path)

    def run(output: str, **own: Any) -> Any:
        kept = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6, "logging_steps": 1, **own}
        arguments = given.flags(checkpoint, data, tmp_path / output, **kept)
        with monkeypatch.context() as patch:
            return given.run(patch, arguments)

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "own",
    [
        {"stage": "align"},
        {"stage": "finetune", "lora_enable": True},
        {"stage": "finetune"},
        {"stage": "align", "group_by_modality_length": True},
        *({"stage": "finetune", "lora_enable": True, "lora_method": name} for name in METHODS),
        {"stage": "finetune", "lora_enable": True, "loraplus_lr_ratio": 4, "mm_projector_lr": 1e-3},
        {"stage": "finetune", "lora_enable": True, "lora_options": '{"peft_type": "VERA", "r": 8}'},
        {"stage": "lion_region", "region_lion_adapters": 4},
        {"stage": "lion_mixed", "region_lion_adapters": 4, "allow_no_gradient": True},
        {"stage": "finetune", "lora_enable": True, "region_lion_adapters": 4, "allow_no_gradient": True},
        {"stage": "align", "region_lion_adapters": 4, "region_lion_routing": "question", "allow_no_gradient": True},
    ],
    ids=["align", "lora", "finetune", "grouped", *METHODS, "loraplus", "vera", *LION],
)
def test_resuming_is_exact(start: Start, tmp_path: Path, own: dict[str, Any]) -> None:
    """The same losses and the same tensors, to the bit."""
    whole = start("whole", **own)
    start("cut", **own)
    shutil.rmtree(tmp_path / "cut" / "checkpoint-6")
    resumed = start("cut", **own)
    assert resumed.state.global_step == 6
    losses = [[entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (whole, resumed)]
    assert len(losses[0]) == 6
    assert losses[0] == losses[1]
    for (name, one), (_, other) in zip(whole.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def contents(folder: Path) -> dict[str, str]:
    """Checksums of all files below a folder, but for those that have the times of this run."""
    timed = ("trainer_state.json", "training_args.bin")  # transformers 4 names its folder of logs by the second
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in timed)
    return {path.relative_to(folder).as_posix(): checksum(path) for path in paths}


def checksum(path: Path) -> str:
    """Of a file; of these weights' values: torch writes the name of the temporary file too."""
    if path.name != NON_LORA_FILE:
        return sha256_file(path)
    return str({name: one.tolist() for name, one in torch.load(path, weights_only=True).items()})


@pytest.mark.parametrize(
    "own",
    [
        {"stage": "align", "max_steps": 3},
        *(
            pytest.param(values, marks=pytest.mark.slow)
            for values in (
                {"stage": "align", "max_steps": 4},
                {"stage": "align", "max_steps": -1, "num_train_epochs": 1.5},
                {"stage": "finetune", "max_steps": 3},
                {"stage": "finetune", "max_steps": 3, "lora_enable": True},
            )
        ),
    ],
    ids=["align", "whole-epochs", "epochs", "finetune", "lora"],
)
def test_a_finished_run_trains_nothing_more(start: Start, tmp_path: Path, own: dict[str, Any], capsys: Any) -> None:
    """The loop of transformers looks for the end behind each step alone: it would take one more."""
    own = {"save_steps": 1, "save_total_limit": 1, **own}
    output = tmp_path / "out"
    steps = start("out", **own).state.global_step
    finished = contents(output)
    assert [path.name for path in output.glob("checkpoint-*")] == [f"checkpoint-{steps}"]
    state = (output / "trainer_state.json").read_text()
    capsys.readouterr()
    assert start("out", **own).state.global_step == steps
    assert contents(output) == finished
    assert (output / "trainer_state.json").read_text() == state  # how long the run took stands there alone
    assert f"complete: step {steps} of {steps}; nothing is trained, another --output_dir" in capsys.readouterr().out
    for path in output.glob("*.*"):  # as where the run was killed before it wrote its result
        if path.is_file():
            path.unlink()
    start("out", **{**own, "max_steps": 1})
    assert contents(output) == finished
    assert f"complete: step {steps}, and these flags end at 1; nothing" in capsys.readouterr().out


def test_a_state_that_a_kill_cut_off_is_no_hindrance(tmp_path: Path) -> None:
    logs = [{"loss": 1.0, "step": 3}]
    state, path = SimpleNamespace(global_step=3, log_history=logs), tmp_path / "trainer_state.json"
    whole = [*logs, {"train_runtime": 9.5, "step": 3}]
    for text, history in (
        (None, logs),
        ('{"global_step": 3, "log_hist', logs),
        (json.dumps({"global_step": 3, "log_history": whole}), whole),
        (json.dumps({"global_step": 3, "log_history": whole[1:]}), logs),
        (json.dumps({"global_step": 2, "log_history": whole}), logs),
    ):
        if text is not None:
            path.write_text(text)
        assert complete_history(state, tmp_path) == history
