"""Ragged sets of queries and keys, the kernels that ran on them, and how far results lie from a reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

LENGTHS_Q, LENGTHS_K = [4] * 12, [1, 9, 0, 300, 36, 9, 120, 36, 2, 0, 577, 64]
CPU_FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"


def bounds(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def problem(
    lengths_q: list[int], lengths_k: list[int], heads: int = 2, dim: int = 8, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    q, k, v = (
        torch.randn(sum(n), heads, dim, generator=generator, dtype=torch.float64).to(dtype)
        for n in (lengths_q, lengths_k, lengths_k)
    )
    return q, k, v, bounds(lengths_q), bounds(lengths_k)


def error(out: Tensor, reference: Tensor) -> float:
    return (out.double() - reference).abs().max().item()


CPU_KERNEL = pytest.mark.skipif(
    not hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"), reason="this torch has no CPU kernel"
)


def names_run(call: Callable[[], Any], activity: ProfilerActivity = ProfilerActivity.CPU) -> dict[str, int]:
    with profile(activities=[activity]) as seen:
        call()
    return {event.key: event.count for event in seen.key_averages()}
