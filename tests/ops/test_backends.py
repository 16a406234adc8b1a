"""Which backend of attention is chosen and runs, and what is said where one cannot."""

from __future__ import annotations

import inspect
import logging
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity

from pvit_ext.ops import varlen_attention as attention
from pvit_ext.ops.varlen_attention import (
    FLASH_ATTN,
    SDPA,
    TORCH_VARLEN,
    Choice,
    Environment,
    environment,
    select_backend,
    varlen_cross_attention,
)
from tests.ops.attention_sets import CPU_FLASH, CPU_KERNEL, LENGTHS_K, LENGTHS_Q, error, names_run, problem


@CPU_KERNEL
def test_the_kernel_that_was_chosen_is_the_one_that_runs() -> None:
    args = problem([2, 2, 2, 2], [5, 7, 5, 0], dtype=torch.float32)
    assert environment(torch.device("cpu")).capability is None
    choice = select_backend("cpu", torch.float32, 8, environment(torch.device("cpu")))
    assert (choice.backend, choice.kernel) == ("sdpa", SDPA)
    ran = names_run(lambda: varlen_cross_attention(*args))
    assert ran[CPU_FLASH] == 2  # one call for each distinct pair of lengths, none for the empty set
    assert CPU_FLASH not in names_run(lambda: varlen_cross_attention(*args, "eager"))
    assert "aten::softmax" in names_run(lambda: varlen_cross_attention(*args, "eager"))


HOPPER = Environment((9, 0), ((FLASH_ATTN, ""), (TORCH_VARLEN, "")))
NO_FLASH_ATTN = Environment((8, 0), ((FLASH_ATTN, "No module named 'flash_attn'"), (TORCH_VARLEN, "")))
NEITHER = Environment((8, 6), ((FLASH_ATTN, "undefined symbol"), (TORCH_VARLEN, "No module named 'varlen'")))
TURING = Environment((7, 5), ((FLASH_ATTN, ""), (TORCH_VARLEN, "")))


@pytest.mark.parametrize(
    ("found", "kernel", "reason"),
    [(HOPPER, FLASH_ATTN, None), (NO_FLASH_ATTN, TORCH_VARLEN, "flash_attn"), (NEITHER, SDPA, "undefined symbol")],
)
def test_selection_prefers_flash_attn_then_torch_then_sdpa(found: Environment, kernel: str, reason: str | None) -> None:
    choice = select_backend("cuda", torch.bfloat16, 64, found)
    assert choice.kernel == kernel
    assert choice.backend == ("sdpa" if kernel == SDPA else "flash")
    assert (reason in "; ".join(choice.reasons)) if reason else not choice.reasons
    assert select_backend("cuda", torch.bfloat16, 64, found) == choice


@pytest.mark.parametrize(
    ("device", "dtype", "dim", "found", "reasons"),
    [
        ("cpu", torch.bfloat16, 64, Environment(None, HOPPER.problems), ["on cpu"]),
        ("cuda", torch.float32, 64, HOPPER, ["dtype torch.float32"]),
        ("cuda", torch.float16, 20, HOPPER, ["20 channels per head"]),
        ("cuda", torch.float16, 264, HOPPER, ["264 channels per head"]),
        ("cuda", torch.float16, 64, TURING, ["compute capability 7.5"]),
        ("cuda", torch.float32, 64, NEITHER, ["torch.float32", "undefined symbol", "No module named 'varlen'"]),
    ],
)
def test_flash_that_cannot_run_is_named_with_every_reason(
    device: str, dtype: torch.dtype, dim: int, found: Environment, reasons: list[str]
) -> None:
    choice = select_backend(device, dtype, dim, found)
    assert choice.backend == "sdpa"
    with pytest.raises(RuntimeError, match="'flash' cannot run") as raised:
        select_backend(device, dtype, dim, found, "flash")
    for reason in reasons:
        assert reason in "; ".join(choice.reasons)
        assert reason in str(raised.value)


def test_asking_for_a_backend_gives_it_or_an_error() -> None:
    assert select_backend("cuda", torch.bfloat16, 64, HOPPER, "sdpa").kernel == SDPA
    assert select_backend("cuda", torch.bfloat16, 64, HOPPER, "eager").backend == "eager"
    args = problem([1], [1])
    with pytest.raises(RuntimeError, match="tensors are on cpu, flash kernels run on CUDA; use 'auto' or 'sdpa'"):
        varlen_cross_attention(*args, "flash")
    with pytest.raises(ValueError, match=r"unknown attention backend 'fast'; known: auto, flash, sdpa, eager"):
        varlen_cross_attention(*args, "fast")


def test_auto_says_once_what_it_fell_back_to(caplog: pytest.LogCaptureFixture) -> None:
    attention._log_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="pvit_ext.ops.varlen_attention"):
        for _ in range(3):
            varlen_cross_attention(*problem([1], [2]))
        varlen_cross_attention(*problem([1], [2]), "sdpa")
    assert [record.message for record in caplog.records] == [
        f"region attention runs on {SDPA} (tensors are on cpu, flash kernels run on CUDA)"
    ]


@pytest.mark.parametrize(("backend", "level"), [("flash", logging.INFO), ("sdpa", logging.WARNING)])
def test_a_gpu_warns_only_of_what_is_slower(backend: str, level: int, caplog: pytest.LogCaptureFixture) -> None:
    attention._log_once.cache_clear()
    with caplog.at_level(logging.INFO, logger="pvit_ext.ops.varlen_attention"):
        attention._log_once("cuda", Choice(backend, TORCH_VARLEN, ("flash_attn: not installed",)))
    assert [record.levelno for record in caplog.records] == [level]


def stand_in(calls: list[tuple[Any, ...]]) -> Callable[..., Tensor]:
    """A flash kernel's interface on a CPU; it fails on what some kernels leave undefined."""

    def kernel(
        q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, **more: Any
    ) -> Tensor:
        calls.append((cu_q.tolist(), cu_k.tolist(), max_q, max_k, more))
        assert cu_q.dtype == cu_k.dtype == torch.int32
        assert isinstance(max_q, int)
        assert isinstance(max_k, int)
        assert cu_q.diff().min() > 0
        assert cu_k.diff().min() > 0
        return varlen_cross_attention(q, k, v, cu_q, cu_k, "eager")

    return kernel


@pytest.mark.parametrize("kernel", [FLASH_ATTN, TORCH_VARLEN])
def test_flash_kernels_get_what_their_interface_asks_for(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    args = problem([2, 3, 1, 2], [4, 0, 7, 2])
    expected = varlen_cross_attention(*args, "eager")
    calls: list[tuple[Any, ...]] = []
    real = attention.select_backend
    if kernel == FLASH_ATTN:
        monkeypatch.setitem(sys.modules, "flash_attn", types.SimpleNamespace(flash_attn_varlen_func=stand_in(calls)))
    else:
        varlen = pytest.importorskip("torch.nn.attention.varlen", reason="torch 2.10")
        inspect.signature(varlen.varlen_attn).bind(*args[:3], *args[3:], 3, 7)  # the real one takes these arguments
        monkeypatch.setattr(varlen, "varlen_attn", stand_in(calls))
    chosen = Choice("flash", kernel, ())
    monkeypatch.setattr(attention, "select_backend", lambda *a: real(*a) if a[-1] == "eager" else chosen)
    torch.testing.assert_close(varlen_cross_attention(*args), expected)
    assert calls == [([0, 2, 3, 5], [0, 4, 11, 13], 2, 7, {})]
    torch.use_deterministic_algorithms(True)
    try:
        varlen_cross_attention(*args)
    finally:
        torch.use_deterministic_algorithms(False)
    assert calls[1][-1] == ({"deterministic": True} if kernel == FLASH_ATTN else {})  # torch's own reads the switch


def kernels_here() -> list[str]:
    if not torch.cuda.is_available():
        return [FLASH_ATTN, TORCH_VARLEN]
    return [kernel for kernel, problem in environment(torch.device("cuda")).problems if not problem]


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", kernels_here())
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flash_kernels_on_a_gpu(kernel: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flash kernel ran, and its output and gradients err at most twice as much as the definition does."""
    monkeypatch.setattr(attention, "environment", lambda _: Environment((9, 0), ((kernel, ""),)))
    *tensors, cu_q, cu_k = problem(LENGTHS_Q, LENGTHS_K, heads=8, dim=64, dtype=dtype)
    cotangent = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1)).cuda()

    def results(backend: str, as_dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.to("cuda", as_dtype).requires_grad_() for x in tensors]
        out = varlen_cross_attention(*leaves, cu_q, cu_k, backend)
        return [out.detach(), *torch.autograd.grad(out, leaves, cotangent.to(as_dtype))]

    ran = names_run(lambda: results("flash", dtype), ProfilerActivity.CUDA)
    assert any("flash_fwd" in name for name in ran), ran
    assert any("flash_bwd" in name for name in ran), ran
    parts = results("flash", dtype), results("eager", dtype), results("eager", torch.float64)
    for own, same, exact in zip(*parts, strict=True):
        assert error(own, exact) <= 2 * error(same, exact)
    assert torch.equal(results("flash", dtype)[0], parts[0][0])


@pytest.mark.gpu
def test_auto_on_a_gpu_takes_flash_for_half_precision_and_sdpa_for_float32() -> None:
    args = [x.cuda() for x in problem([4, 4], [9, 0], dim=64, dtype=torch.bfloat16)]
    ran = names_run(lambda: varlen_cross_attention(*args), ProfilerActivity.CUDA)
    assert any("flash_fwd" in name for name in ran), ran
    wide = [x.float() if x.is_floating_point() else x for x in args]
    out = varlen_cross_attention(*wide)
    assert not out[4:].any()
    torch.testing.assert_close(out, varlen_cross_attention(*wide, "eager"), rtol=1e-4, atol=1e-5)
