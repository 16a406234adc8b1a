"""A run that is cut off and goes on ends as if it had not been, on both hosts."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

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
