"""Ragged attention against a scalar loop, against its own float64 form, and which kernel really ran."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pvit_ext.ops.varlen_attention import varlen_cross_attention
from tests.ops.attention_sets import CPU_KERNEL, LENGTHS_K, LENGTHS_Q, bounds, error, problem


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"q": torch.zeros(3, 2, 4)},
            r"q is \(Tq, H, D\), k and v are \(Tk, H, D\) of the same dtype; got q \(3, 2, 4\)",
        ),
        ({"k": torch.zeros(4, 2, 8, dtype=torch.float64)}, r"got q .*k \(4, 2, 8\)"),
        ({"v": torch.zeros(5, 2, 8)}, "v .* torch.float32"),
        ({"cu_q": torch.tensor([0, 2])}, r"cu_seqlens_q rises from 0 to 3, the length of q; got \[0, 2\]"),
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
