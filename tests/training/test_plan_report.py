"""The sentences of a plan."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pvit_ext.training.plan.report import _schedule
from pvit_ext.training.plan.steps import Schedule


def test_one_epoch_is_no_epochs() -> None:
    plan: Any = SimpleNamespace(global_batch=1, schedule=Schedule(2000, 1, 2000, 1.0))
    assert [*_schedule(plan, None, None)][:2] == ["1 sample a step", "2,000 samples, 1 epoch: 2,000 steps"]


@pytest.mark.parametrize(
    ("rate", "said"), [(0.1, "5.6 hours"), (2, "16.7 minutes"), (100, "20 seconds"), (4000, "0.5 seconds")]
)
def test_a_short_run_has_minutes(rate: float, said: str) -> None:
    plan: Any = SimpleNamespace(global_batch=1, schedule=Schedule(2000, 1, 2000, 1.0))
    assert [*_schedule(plan, ("samples_per_second", rate), None)][-1] == f"{said} at {rate:g} samples per second"
