"""Ragged attention against a scalar loop, against its own float64 form, and which kernel really ran."""

from __future__ import annotations

import inspect
import logging
import math
import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

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


def scalar_loop(q: Tensor, k: Tensor, v: Tensor, lengths_q: list[int], lengths_k: list[int]) -> Tensor:
    """Softmax attention written out, one query and one head at a time."""
    out = torch.zeros_like(q)
    at_q = at_k = 0
    for n_q, n_k in zip(lengths_q, lengths_k, strict=True):
        for row in range(at_q, at_q + n_q):
            for head in range(q.shape[1]):
                dots = [float(q[row, head] @ k[at_k + j, head]) / math.sqrt(q.shape[2]) for j in range(n_k)]
                weights = [math.exp(dot - max(dots)) for dot in dots]
                for j, weight in enumerate(weights):
                    out[row, head] += weight / sum(weights) * v[at_k + j, head]
        at_q, at_k = at_q + n_q, at_k + n_k
    return out


ragged = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=6)


@settings(max_examples=60, deadline=None)
@given(ragged, st.sampled_from(["sdpa", "eager", "auto"]))
def test_equals_the_scalar_loop_for_any_lengths(pairs: list[tuple[int, int]], backend: str) -> None:
    lengths_q, lengths_k = [a for a, _ in pairs], [b for _, b in pairs]
    q, k, v, cu_q, cu_k = problem(lengths_q, lengths_k)
    out = varlen_cross_attention(q, k, v, cu_q, cu_k, backend)
    torch.testing.assert_close(out, scalar_loop(q, k, v, lengths_q, lengths_k), rtol=1e-10, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(ragged.filter(lambda pairs: any(min(pair) for pair in pairs)))
def test_gradients_of_sdpa_equal_those_of_the_definition(pairs: list[tuple[int, int]]) -> None:
    lengths_q, lengths_k = [a for a, _ in pairs], [b for _, b in pairs]
    *tensors, cu_q, cu_k = problem(lengths_q, lengths_k)
    cotangent = torch.randn(tensors[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    grads = []
    for backend in ("sdpa", "eager"):
        leaves = [x.clone().requires_grad_() for x in tensors]
        out = varlen_cross_attention(*leaves, cu_q, cu_k, backend)
        grads.append(torch.autograd.grad(out, leaves, cotangent))
    for own, reference in zip(*grads, strict=True):
        torch.testing.assert_close(own, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
def test_gradcheck_with_an_empty_key_set(backend: str) -> None:
    *tensors, cu_q, cu_k = problem([2, 1, 3, 2], [3, 0, 2, 3], heads=1, dim=3)
    leaves = [x.requires_grad_() for x in tensors]
    assert torch.autograd.gradcheck(lambda *x: varlen_cross_attention(*x, cu_q, cu_k, backend), leaves)


LENGTHS_Q, LENGTHS_K = [4] * 12, [1, 9, 0, 300, 36, 9, 120, 36, 2, 0, 577, 64]


def error(out: Tensor, reference: Tensor) -> float:
    return (out.double() - reference).abs().max().item()


CPU_KERNEL = pytest.mark.skipif(
    not hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"), reason="this torch has no CPU kernel"
)


@CPU_KERNEL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["auto", "sdpa"])
def test_error_at_most_twice_that_of_the_definition_in_the_same_dtype(backend: str, dtype: torch.dtype) -> None:
    q, k, v, cu_q, cu_k = problem(LENGTHS_Q, LENGTHS_K, heads=8, dim=64, dtype=dtype)
    exact = varlen_cross_attention(q.double(), k.double(), v.double(), cu_q, cu_k, "eager")
    own, same_dtype = (error(varlen_cross_attention(q, k, v, cu_q, cu_k, name), exact) for name in (backend, "eager"))
    assert 0 < own <= 2 * same_dtype, (own, same_dtype)


@CPU_KERNEL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_error_at_most_twice_that_of_the_definition(dtype: torch.dtype) -> None:
    *tensors, cu_q, cu_k = problem(LENGTHS_Q, LENGTHS_K, heads=4, dim=32, dtype=dtype)
    cotangent = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(1)).to(dtype)

    def grads(backend: str, as_dtype: torch.dtype) -> tuple[Tensor, ...]:
        leaves = [x.to(as_dtype).clone().requires_grad_() for x in tensors]
        out = varlen_cross_attention(*leaves, cu_q, cu_k, backend)
        return torch.autograd.grad(out, leaves, cotangent.to(as_dtype))

    exact = grads("eager", torch.float64)
    for own, same, reference in zip(grads("sdpa", dtype), grads("eager", dtype), exact, strict=True):
        assert error(own, reference) <= 2 * error(same, reference)


@pytest.mark.parametrize("backend", ["auto", "sdpa", "eager"])
def test_empty_key_sets_give_zeros_and_no_sets_give_nothing(backend: str) -> None:
    q, k, v, cu_q, cu_k = problem([2, 3, 1], [4, 0, 2])
    out = varlen_cross_attention(q, k, v, cu_q, cu_k, backend)
    assert not out[2:5].any()
    assert out[:2].any()
    assert out[5:].any()
    q, k, v, cu_q, cu_k = problem([2, 3], [0, 0])
    assert torch.equal(
        varlen_cross_attention(q.requires_grad_(), k, v, cu_q, cu_k, backend), torch.zeros(5, 2, 8).double()
    )
    q, k, v, cu_q, cu_k = problem([], [])
    assert varlen_cross_attention(q, k, v, cu_q, cu_k, backend).shape == (0, 2, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["auto", "sdpa", "eager"])
def test_a_set_is_the_same_alone_and_in_any_batch_and_twice(backend: str, dtype: torch.dtype) -> None:
    q, k, v, cu_q, cu_k = problem(LENGTHS_Q, LENGTHS_K, heads=4, dim=32, dtype=dtype)
    batch, again = (varlen_cross_attention(q, k, v, cu_q, cu_k, backend) for _ in range(2))
    assert torch.equal(batch, again)
    for n in range(len(LENGTHS_Q)):
        rows, keys = slice(*cu_q[n : n + 2].tolist()), slice(*cu_k[n : n + 2].tolist())
        ends = bounds(LENGTHS_Q[n : n + 1]), bounds(LENGTHS_K[n : n + 1])
        alone = varlen_cross_attention(q[rows], k[keys], v[keys], *ends, backend)
        torch.testing.assert_close(batch[rows], alone, rtol=1e-5, atol=1e-6 if dtype == torch.float32 else 1e-2)


def names_run(call: Callable[[], Any], activity: ProfilerActivity = ProfilerActivity.CPU) -> dict[str, int]:
    with profile(activities=[activity]) as seen:
        call()
    return {event.key: event.count for event in seen.key_averages()}


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"q": torch.zeros(3, 2, 4)},
            r"q is \(Tq, H, D\), k and v are \(Tk, H, D\) of the same dtype; got q \(3, 2, 4\)",
        ),
        ({"k": torch.zeros(4, 2, 8, dtype=torch.float64)}, r"got q .*k \(4, 2, 8\)"),
        ({"v": torch.zeros(5, 2, 8)}, "v .* torch.float32"),
        ({"cu_q": torch.tensor([0, 2])}, r"cu_seqlens_q rises from 0 to 3, the rows of q; got \[0, 2\]"),
        ({"cu_q": torch.tensor([0, 4, 3])}, "cu_seqlens_q rises"),
        ({"cu_k": torch.tensor([1, 5])}, "cu_seqlens_k rises from 0 to 5"),
        ({"cu_k": torch.tensor([], dtype=torch.int64)}, "cu_seqlens_k rises from 0 to 5"),
        ({"cu_k": torch.tensor([0, 2, 5, 5])}, "as many query sets as key sets are needed, got 2 and 3"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, Tensor], message: str) -> None:
    names = ("q", "k", "v", "cu_q", "cu_k")
    args = dict(zip(names, problem([1, 2], [2, 3]), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        varlen_cross_attention(*args.values())


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
