"""Rates over several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


MASK = torch.tensor([[0, 1, 1], [1, 1, 1]])


class Inner(torch.nn.Module):
    """Takes whatever it is given."""

    def forward(self, *_: Any, **__: Any) -> None: ...


class Model(Inner):
    """Of a host of another package."""

    def __init__(self) -> None:
        super().__init__()
        self.base_model = Inner()

    def forward(self, *given: Any, inner: dict[str, Any], **named: Any) -> None:
        self.base_model(**inner)


@pytest.mark.parametrize(
    ("outer", "inner", "samples", "tokens"),
    [
        ({"input_ids": torch.ones(2, 3)}, {"attention_mask": MASK, "inputs_embeds": torch.ones(2, 3, 4)}, 2, 5),
        ({"input_ids": torch.ones(2, 3)}, {"attention_mask": None, "inputs_embeds": torch.zeros(2, 3, 4)}, 2, 6),
        ({"inputs_embeds": torch.ones(2, 3, 4)}, {"input_ids": torch.zeros(2, 3).long()}, 2, 6),
        ({"attention_mask": MASK, "input_ids": None}, {"inputs_embeds": torch.ones(2, 3, 4).half()}, 2, 6),
        ({"pixel_values": torch.ones(2, 3)}, {"hidden": torch.ones(2, 3, 4)}, 0, 0),
    ],
)
def test_a_batch_is_counted_by_what_the_model_is_given(
    outer: dict[str, Any], inner: dict[str, Any], samples: int, tokens: int
) -> None:
    model = Model()
    meter = throughput.Throughput(model)
    model(**outer, inner=inner, regions=[[1, 2], None])
    assert (meter.samples, int(meter.tokens), meter.regions) == (samples, tokens, 2)
    model.eval()(**outer, inner=inner, regions=[[1], None])  # it answers
    assert (meter.samples, int(meter.tokens), meter.regions) == (samples, tokens, 2)


def test_a_model_without_an_inner_one_is_counted_itself() -> None:
    model = Inner()
    meter = throughput.Throughput(model)
    model(torch.ones(2, 3))
    model(input_ids=torch.ones(2, 3).long(), attention_mask=MASK)
    assert (meter.samples, int(meter.tokens)) == (2, 5)


def test_a_run_that_logged_no_rates(stage1: Path) -> None:
    with pytest.raises(ValueError, match=r"before its first --logging_steps, or .*give --samples-per-second X"):
        measured_rates(str(stage1))
