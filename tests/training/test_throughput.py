"""Rates over several processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pvit_ext.training import throughput
from pvit_ext.training.plan.steps import measured_rates


def test_rates_are_of_all_processes_over_the_slowest() -> None:
    meter = object.__new__(throughput.Throughput)
    meter.samples, meter.tokens, meter.regions, meter.seconds = 4, torch.tensor(100), 6, 2.0
    other = torch.tensor([[2, 50, 0, 4.0]], dtype=torch.float64)
    rates = meter.rates(lambda own: torch.cat([own, other]), torch.device("cpu"))
    assert rates == {"samples_per_second": 1.5, "tokens_per_second": 37.5, "regions_per_second": 1.5}
    assert (meter.samples, meter.tokens, meter.regions, meter.seconds) == (0, 0, 0, 0.0)


def test_a_run_that_logged_no_rates(stage1: Path) -> None:
    with pytest.raises(ValueError, match=r"before its first --logging_steps, or .*give --samples-per-second X"):
        measured_rates(str(stage1))
