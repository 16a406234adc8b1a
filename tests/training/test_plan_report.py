"""The sentences of a plan."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pvit_ext.training.plan.report import _schedule
from pvit_ext.training.plan.steps import Schedule


def test_one_epoch_is_no_epochs() -> None:
    plan: Any = SimpleNamespace(global_batch=1, schedule=Schedule(2000, 1, 2000, 1.0))
    assert [*_schedule(plan, None, None)][:2] == ["1 sample a step", "2,000 samples, 1 epoch: 2,000 steps"]
