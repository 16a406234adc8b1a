"""Which attention backend runs for which tensors, and why."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache

import torch

BACKENDS = ("auto", "flash", "sdpa", "eager")
FLASH_ATTN, TORCH_VARLEN = "flash_attn.flash_attn_varlen_func", "torch.nn.attention.varlen.varlen_attn"
SDPA, EAGER = "torch.nn.functional.scaled_dot_product_attention", "torch matmul and softmax"
_HALF = (torch.float16, torch.bfloat16)


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
    """The backend (``flash``, ``sdpa`` or ``eager``) that will run, the function behind it, and why no faster one."""

    backend: str
    kernel: str
    reasons: tuple[str, ...]


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
    refusals = []
    if capability < (8, 0):
        refusals.append(f"compute capability {capability[0]}.{capability[1]}, flash kernels need 8.0 (Ampere)")
    if dtype not in _HALF:
        refusals.append(f"dtype {dtype}, flash kernels take float16 and bfloat16")
    if head_dim > 256 or head_dim % 8:
        refusals.append(f"{head_dim} channels per head, flash kernels take multiples of 8 up to 256")
    return refusals


@cache
def _import_problem(kernel: str) -> str:
    module, name = kernel.rsplit(".", 1)
    try:
        getattr(importlib.import_module(module), name)
    except Exception as error:  # a package built for another torch raises OSError, RuntimeError and others
        return f"{type(error).__name__}: {error}"
    return ""
