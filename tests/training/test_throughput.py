"""Rates over several processes."""

from __future__ import annotations

import torch

from pvit_ext.training import throughput


def test_rates_are_of_all_processes_over_the_slowest() -> None:
    meter = object.__new__(throughput.Throughput)
    meter.samples, meter.tokens, meter.regions, meter.seconds = 4, torch.tensor(100), 6, 2.0
    other = torch.tensor([[2, 50, 0, 4.0]], dtype=torch.float64)
    rates = meter.rates(lambda own: torch.cat([own, other]), torch.device("cpu"))
    assert rates == {"samples_per_second": 1.5, "tokens_per_second": 37.5, "regions_per_second": 1.5}
    assert (meter.samples, meter.tokens, meter.regions, meter.seconds) == (0, 0, 0, 0.0)
