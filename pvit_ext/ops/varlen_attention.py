"""Attention of many query sets on as many key sets of any length, through FlashAttention where it can run."""

from __future__ import annotations

import importlib
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pvit_ext.ops.attention_backend import EAGER, FLASH_ATTN, SDPA, TORCH_VARLEN, Choice, environment, select_backend

__all__ = ["environment", "select_backend", "varlen_cross_attention"]
logger = logging.getLogger(__name__)


def varlen_cross_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, backend: str = "auto"
) -> Tensor:
    """Scaled dot-product attention of N query sets on N key sets; an empty key set gives zeros on every backend.

    Source: FlashAttention-2 (arXiv 2307.08691), whose ``flash_attn_varlen_func`` has these arguments.

    Args:
        q: (Tq, H, D) floating, the N query sets one after the other.
        k: (Tk, H, D), of the same dtype.
        v: (Tk, H, D).
        cu_seqlens_q: (N + 1,) integer, set n is ``q[cu_seqlens_q[n]:cu_seqlens_q[n + 1]]``; on a CPU no device waits.
        cu_seqlens_k: (N + 1,) integer.
        backend: ``auto`` takes the fastest that can run here, see :func:`select_backend`.

    Returns:
        (Tq, H, D).

    Raises:
        ValueError: when shapes, dtypes or boundaries do not fit together.
        RuntimeError: when ``flash`` is asked for and cannot run.
    """
    if q.ndim != 3 or k.shape != v.shape or k.shape[1:] != q.shape[1:] or not q.dtype == k.dtype == v.dtype:
        given = ", ".join(f"{name} {tuple(x.shape)} {x.dtype}" for name, x in (("q", q), ("k", k), ("v", v)))
        raise ValueError(f"q is (Tq, H, D), k and v are (Tk, H, D) of the same dtype; got {given}")
    lengths_q, lengths_k = _lengths(cu_seqlens_q, len(q), "q"), _lengths(cu_seqlens_k, len(k), "k")
    if len(lengths_q) != len(lengths_k):
        raise ValueError(f"as many query sets as key sets are needed, got {len(lengths_q)} and {len(lengths_k)}")
    choice = select_backend(q.device.type, q.dtype, q.shape[2], environment(q.device), backend)
    if backend == "auto" and choice.reasons:
        _log_once(q.device.type, choice)
    used = [n for n, pair in enumerate(zip(lengths_q, lengths_k, strict=True)) if min(pair) > 0]
    run = _KERNELS[choice.kernel]
    if len(used) == len(lengths_q) > 0:
        return run(q, k, v, lengths_q, lengths_k)
    rows_q, rows_k = _rows(lengths_q, used, q.device), _rows(lengths_k, used, q.device)
    out = q[rows_q]  # (0, H, D) without a key set
    if used:
        out = run(out, k[rows_k], v[rows_k], [lengths_q[n] for n in used], [lengths_k[n] for n in used])
    return torch.zeros_like(q).index_copy(0, rows_q, out)  # (Tq, H, D)


@cache
def _log_once(device_type: str, choice: Choice) -> None:
    level = logging.WARNING if device_type == "cuda" else logging.INFO  # nobody expects flash kernels on a CPU
    logger.log(level, "region attention runs on %s (%s)", choice.kernel, "; ".join(choice.reasons))


def _lengths(boundaries: Tensor, total: int, name: str) -> list[int]:
    at = boundaries.tolist()
    lengths = [end - start for start, end in itertools.pairwise(at)]
    if boundaries.ndim != 1 or not at or at[0] != 0 or at[-1] != total or min(lengths, default=0) < 0:
        raise ValueError(f"cu_seqlens_{name} rises from 0 to {total}, the rows of {name}; got {str(at)[:200]}")
    return lengths


def _rows(lengths: Sequence[int], sets: Sequence[int], device: torch.device) -> Tensor:
    """Rows of these sets, one set after the other; (R,) int64."""
    length = torch.tensor(lengths, dtype=torch.int64)
    start, picked = (length.cumsum(0) - length)[list(sets)], length[list(sets)]
    rows = torch.repeat_interleave(start - (picked.cumsum(0) - picked), picked)
    return (rows + torch.arange(len(rows))).to(device)


def _boundaries(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)


def _flash_attn(q: Tensor, k: Tensor, v: Tensor, lengths_q: Sequence[int], lengths_k: Sequence[int]) -> Tensor:
    function = importlib.import_module("flash_attn").flash_attn_varlen_func
    bounds = _boundaries(lengths_q, q.device), _boundaries(lengths_k, q.device)
    options = {"deterministic": True} if torch.are_deterministic_algorithms_enabled() else {}  # flash-attn 2.4.1 on
    out: Tensor = function(q, k, v, *bounds, max(lengths_q), max(lengths_k), **options)
    return out


def _torch_varlen(q: Tensor, k: Tensor, v: Tensor, lengths_q: Sequence[int], lengths_k: Sequence[int]) -> Tensor:
    function = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    bounds = _boundaries(lengths_q, q.device), _boundaries(lengths_k, q.device)
    out: Tensor = function(q, k, v, *bounds, max(lengths_q), max(lengths_k))
    return out


def _sdpa(q: Tensor, k: Tensor, v: Tensor, lengths_q: Sequence[int], lengths_k: Sequence[int]) -> Tensor:
    """One call per distinct pair of lengths, without mask and padding: a mask would leave the flash kernel."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for n, pair in enumerate(zip(lengths_q, lengths_k, strict=True)):
        groups[pair].append(n)
    sets = [x.split(list(lengths)) for x, lengths in ((q, lengths_q), (k, lengths_k), (v, lengths_k))]
    results = list(sets[0])
    for members in groups.values():
        heads = [_stacked([part[n] for n in members]).transpose(1, 2) for part in sets]  # (n, H, L, D)
        attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2]).transpose(1, 2)  # (n, Lq, H, D)
        for n, result in zip(members, attended.unbind(), strict=True):
            results[n] = result
    return torch.cat(results)  # (Tq, H, D)


def _stacked(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts) if len(parts) > 1 else parts[0][None]  # most lengths are rare: a view, no copy


def _eager(q: Tensor, k: Tensor, v: Tensor, lengths_q: Sequence[int], lengths_k: Sequence[int]) -> Tensor:
    """The definition, set by set; the oracle of the tests."""
    split_k, split_v = (x.split(list(lengths_k)) for x in (k, v))
    parts = []
    for queries, keys, values in zip(q.split(list(lengths_q)), split_k, split_v, strict=True):
        scores = torch.einsum("qhd,khd->hqk", queries, keys) * q.shape[2] ** -0.5
        parts.append(torch.einsum("hqk,khd->qhd", scores.softmax(2), values))
    return torch.cat(parts)  # (Tq, H, D)


_KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor, Sequence[int], Sequence[int]], Tensor]] = {
    FLASH_ATTN: _flash_attn,
    TORCH_VARLEN: _torch_varlen,
    SDPA: _sdpa,
    EAGER: _eager,
}
