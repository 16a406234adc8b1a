"""Attention of many query sets on as many key sets of any length, through FlashAttention where it can run."""

from __future__ import annotations

import importlib
import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BACKENDS = ("auto", "flash", "sdpa", "eager")
FLASH_ATTN, TORCH_VARLEN = "flash_attn.flash_attn_varlen_func", "torch.nn.attention.varlen.varlen_attn"
SDPA, EAGER = "torch.nn.functional.scaled_dot_product_attention", "torch matmul and softmax"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Environment:
    """What a device offers to flash kernels.

    Args:
        capability: CUDA compute capability, None without CUDA.
        problems: per flash kernel, the preferred first, why it cannot be imported, "" where it can; none without CUDA.
    """

    capability: tuple[int, int] | None
    problems: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Choice:
    """The backend (``flash``, ``sdpa`` or ``eager``) that will run, its function, and why no faster one can."""

    backend: str
    kernel: str
    reasons: tuple[str, ...]


def varlen_cross_attention(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, backend: str = "auto"
) -> Tensor:
    """Scaled dot-product attention of N query sets on N key sets; an empty key set gives zeros on every backend.

    Source: FlashAttention-2 (arXiv 2307.08691), whose ``flash_attn_varlen_func`` has these arguments.

    Args:
        q: (Tq, H, D) floating, the N query sets one after the other.
        k: (Tk, H, D), of the same dtype.
        v: (Tk, H, D).
        cu_seqlens_q: (N + 1,) integer, best on the CPU, where no device waits for it; set n is
            ``q[cu_seqlens_q[n]:cu_seqlens_q[n + 1]]``.
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
    used = (lengths_q > 0) & (lengths_k > 0)  # (N,)
    if used.any() and used.all():
        return _KERNELS[choice.kernel](q, k, v, lengths_q.tolist(), lengths_k.tolist())
    in_q, in_k = (torch.repeat_interleave(used, n).nonzero()[:, 0].to(q.device) for n in (lengths_q, lengths_k))
    out = q[in_q]  # (0, H, D) without a key set
    if used.any():
        out = _KERNELS[choice.kernel](out, k[in_k], v[in_k], lengths_q[used].tolist(), lengths_k[used].tolist())
    return torch.zeros_like(q).index_copy(0, in_q, out)  # (Tq, H, D)


def environment(device: torch.device) -> Environment:
    """What this device offers; packages are tried only where there is a CUDA device to run them on."""
    if device.type != "cuda":
        return Environment(None, ())
    problems = tuple((kernel, _import_problem(kernel)) for kernel in (FLASH_ATTN, TORCH_VARLEN))
    return Environment(torch.cuda.get_device_capability(device), problems)


def select_backend(
    device_type: str, dtype: torch.dtype, head_dim: int, found: Environment, backend: str = "auto"
) -> Choice:
    """Choose how to compute attention; depends on nothing but its arguments.

    Args:
        device_type: of the tensors, such as ``cuda``.
        dtype: of the tensors.
        head_dim: channels per head.
        found: see :func:`environment`.
        backend: ``auto``, or one that has to run.

    Raises:
        ValueError: for an unknown backend.
        RuntimeError: when ``flash`` is asked for and cannot run, with every reason.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown attention backend {backend!r}; known: {', '.join(BACKENDS)}")
    if backend in ("sdpa", "eager"):
        return Choice(backend, SDPA if backend == "sdpa" else EAGER, (f"{backend} was asked for",))
    missing = [f"{kernel}: {problem}" for kernel, problem in found.problems if problem]
    ready = [kernel for kernel, problem in found.problems if not problem]
    refusals = _flash_refusals(device_type, dtype, head_dim, found.capability) + ([] if ready else missing)
    if not refusals:
        return Choice("flash", ready[0], tuple(missing))
    if backend == "flash":
        raise RuntimeError(f"attention backend 'flash' cannot run: {'; '.join(refusals)}; use 'auto' or 'sdpa'")
    return Choice("sdpa", SDPA, tuple(refusals))


def _flash_refusals(
    device_type: str, dtype: torch.dtype, head_dim: int, capability: tuple[int, int] | None
) -> list[str]:
    if device_type != "cuda" or capability is None:
        return [f"tensors are on {device_type}, flash kernels run on CUDA"]
    refusals = {
        f"compute capability {capability[0]}.{capability[1]}, flash kernels need 8.0 (Ampere)": capability < (8, 0),
        f"dtype {dtype}, flash kernels take float16 and bfloat16": dtype not in (torch.float16, torch.bfloat16),
        f"{head_dim} channels per head, flash kernels take multiples of 8 up to 256": head_dim > 256 or head_dim % 8,
    }
    return [reason for reason, applies in refusals.items() if applies]


@cache
def _import_problem(kernel: str) -> str:
    try:
        _imported(kernel)
    except Exception as error:  # a package built for another torch raises OSError, RuntimeError and others
        return f"{type(error).__name__}: {error}"
    return ""


def _imported(kernel: str) -> Callable[..., Tensor]:
    module, name = kernel.rsplit(".", 1)
    function: Callable[..., Tensor] = getattr(importlib.import_module(module), name)
    return function


@cache
def _log_once(device_type: str, choice: Choice) -> None:
    slower = device_type == "cuda" and choice.backend != "flash"  # nobody expects flash kernels on a CPU
    level = logging.WARNING if slower else logging.INFO
    logger.log(level, "region attention runs on %s (%s)", choice.kernel, "; ".join(choice.reasons))


def _lengths(boundaries: Tensor, total: int, name: str) -> Tensor:
    """Lengths of the sets, (N,) on the CPU."""
    at = boundaries.cpu()
    if at.ndim != 1 or not len(at) or at[0] != 0 or at[-1] != total or (at.diff() < 0).any():
        given = str(at.tolist())[:200]
        raise ValueError(f"cu_seqlens_{name} rises from 0 to {total}, the length of {name}; got {given}")
    return at.diff()


def _flash(kernel: str, q: Tensor, k: Tensor, v: Tensor, lengths_q: list[int], lengths_k: list[int]) -> Tensor:
    bounds = (F.pad(torch.tensor(n).cumsum(0), (1, 0)).to(q.device, torch.int32) for n in (lengths_q, lengths_k))
    options: dict[str, Any] = {}
    if kernel == FLASH_ATTN and torch.are_deterministic_algorithms_enabled():
        options["deterministic"] = True  # flash-attn 2.4.1 on; torch's own reads the switch
    return _imported(kernel)(q, k, v, *bounds, max(lengths_q), max(lengths_k), **options)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, lengths_q: list[int], lengths_k: list[int]) -> Tensor:
    """One call per distinct pair of lengths, without mask and padding: a mask would leave the flash kernel."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for n, pair in enumerate(zip(lengths_q, lengths_k, strict=True)):
        groups[pair].append(n)
    sets = [x.split(lengths) for x, lengths in ((q, lengths_q), (k, lengths_k), (v, lengths_k))]
    results = list(sets[0])
    for members in groups.values():
        heads = [_stacked([part[n] for n in members]).transpose(1, 2) for part in sets]  # (n, H, L, D)
        attended = F.scaled_dot_product_attention(heads[0], heads[1], heads[2]).transpose(1, 2)  # (n, Lq, H, D)
        for n, result in zip(members, attended.unbind(), strict=True):
            results[n] = result
    return torch.cat(results)  # (Tq, H, D)


def _stacked(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts) if len(parts) > 1 else parts[0][None]  # most lengths occur once: a view, no copy


def _eager(q: Tensor, k: Tensor, v: Tensor, lengths_q: list[int], lengths_k: list[int]) -> Tensor:
    """The definition, set by set; the oracle of the tests."""
    split_k, split_v = (x.split(lengths_k) for x in (k, v))
    parts = []
    for queries, keys, values in zip(q.split(lengths_q), split_k, split_v, strict=True):
        scores = torch.einsum("qhd,khd->hqk", queries, keys) * q.shape[2] ** -0.5
        parts.append(torch.einsum("hqk,khd->qhd", scores.softmax(2), values))
    return torch.cat(parts)  # (Tq, H, D)


_KERNELS: dict[str, Callable[[Tensor, Tensor, Tensor, list[int], list[int]], Tensor]] = {
    FLASH_ATTN: partial(_flash, FLASH_ATTN),
    TORCH_VARLEN: partial(_flash, TORCH_VARLEN),
    SDPA: _sdpa,
    EAGER: _eager,
}
