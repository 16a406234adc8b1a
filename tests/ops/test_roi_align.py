"""RoIAlign against the compiled kernels' numbers (golden g2) and against a scalar loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pvit_ext.ops.roi_align import roi_align
from tests.benchmarks.roi_align_forms import dense, naive
from tests.goldens import rules

GOLDEN = Path(__file__).parents[1] / "goldens" / "g2_roi_align.safetensors"
SCALE = 1 / 16
CASES = [(size, ratio) for size in (7, 14, 18) for ratio in (0, 2)]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN)


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).double().norm() / b.double().norm()).item()


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("size", "ratio"), CASES)
def test_golden_output_and_gradient(golden: dict[str, Tensor], size: int, ratio: int, channels_last: bool) -> None:
    x, rois = golden["in.x"], golden["in.rois"]
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = roi_align(x, rois[:, 1:], rois[:, 0].long(), size, SCALE, ratio)
    expected = golden[f"out.sr{ratio}_o{size}"]
    assert relative(out, expected) < 1e-6
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=2e-6)
    (grad,) = torch.autograd.grad(out, x, rules.normal(f"g{size}", out.shape, 2))
    assert relative(grad, golden[f"grad_x.sr{ratio}_o{size}"]) < 3e-6  # their float32 sums are the less exact ones


class AsOnCuda(TorchFunctionMode):
    """Division by a number as CUDA computes it: times the reciprocal, which may be off by one bit."""

    def __torch_function__(self, function: Callable[..., Any], _: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (Tensor.div, Tensor.__truediv__, torch.div) and not isinstance(args[1], Tensor):
            return args[0] * (torch.ones((), dtype=args[0].dtype) / args[1])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", [7, 14, 18])
def test_a_device_that_divides_by_reciprocals_takes_as_many_samples(golden: dict[str, Tensor], size: int) -> None:
    whole_cells = torch.tensor([[32.0, 32.0, 32.0 + 16 * size, 32.0 + 48 * size]])  # 1 and 3 cells a bin
    x = golden["in.x"]
    expected = roi_align(x, whole_cells, torch.tensor([0]), size, SCALE)
    with AsOnCuda():
        assert (torch.tensor(21.0) / 7).item() > 3
        found = roi_align(x, whole_cells, torch.tensor([0]), size, SCALE)
    assert relative(found, expected) < 1e-6


def test_golden_other_sizes_and_precisions(golden: dict[str, Tensor]) -> None:
    x, rois = golden["in.x"], golden["in.rois"]
    boxes, index = rois[:, 1:], rois[:, 0].long()
    # The second box of this golden is the whole map at a scale of 1/4.7; the first one was not recorded.
    whole = torch.tensor([[0, 0, 42 * 4.7, 25 * 4.7]])
    oblong = roi_align(x, whole, torch.tensor([1]), (3, 5), 1 / 4.7, 2)
    assert relative(oblong, golden["out.sr2_o3x5_scale4_7"][1:]) < 1e-5
    double = roi_align(x[:, :2].double(), boxes.double(), index, 18, SCALE)
    assert relative(double, golden["out.sr0_o18_f64"]) < 1e-14
    rounded = golden["in.rois_rounded_bf16"]
    out = roi_align(x[:, :3].bfloat16().float(), rounded[:, 1:], rounded[:, 0].long(), 18, SCALE)
    assert relative(out, golden["out.sr0_o18_rois_via_bf16"]) < 1e-6


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
def test_half_precision_rounds_values_and_never_boxes(
    golden: dict[str, Tensor], dtype: torch.dtype, bound: float
) -> None:
    """Summed in float32, so equal to the float32 result of the rounded map, rounded once."""
    x, rois = golden["in.x"].to(dtype), golden["in.rois"]
    out = roi_align(x, rois[:, 1:], rois[:, 0].long(), 18, SCALE)
    reference = roi_align(x.float(), rois[:, 1:], rois[:, 0].long(), 18, SCALE)
    assert out.dtype == dtype
    assert torch.equal(out, reference.to(dtype))
    assert relative(out, golden["out.sr0_o18"]) < bound


coordinate = st.floats(-60, 140, width=32)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, tuple[int, int], float, int]:
    height, width, batch = draw(st.integers(1, 6)), draw(st.integers(1, 7)), draw(st.integers(1, 2))
    boxes = []
    for _ in range(draw(st.integers(0, 3))):
        xs, ys = sorted([draw(coordinate), draw(coordinate)]), sorted([draw(coordinate), draw(coordinate)])
        boxes.append([xs[0], ys[0], xs[1], ys[1]])
    index = [draw(st.integers(0, batch - 1)) for _ in boxes]
    size = (draw(st.integers(1, 3)), draw(st.integers(1, 4)))
    features = torch.randn(batch, 2, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    boxes64 = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    scale = draw(st.sampled_from([1 / 16, 1 / 7, 0.25]))
    return features, boxes64, torch.tensor(index, dtype=torch.int64), size, scale, draw(st.integers(0, 3))


@settings(max_examples=60, deadline=None)
@given(problems())
def test_equals_the_scalar_loop(problem: tuple[Tensor, Tensor, Tensor, tuple[int, int], float, int]) -> None:
    out = roi_align(*problem)
    torch.testing.assert_close(out, naive(*problem), rtol=1e-10, atol=1e-12)


def test_gradients_of_first_and_second_order() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[3.0, 5, 60, 70], [-9, 2, 30, 33], [0, 0, 96, 80], [7, 7, 7, 30]], dtype=torch.float64)
    index = torch.tensor([0, 1, 1, 0])
    assert torch.autograd.gradcheck(lambda x: roi_align(x, boxes, index, 3, SCALE), (x,))
    assert torch.autograd.gradgradcheck(lambda x: roi_align(x, boxes, index, 3, SCALE).square(), (x,))


def test_dense_form_of_the_benchmark_is_the_same_function(golden: dict[str, Tensor]) -> None:
    rois = golden["in.rois"]
    out = dense(golden["in.x"], rois[:, 1:], rois[:, 0].long(), 18, SCALE)
    assert relative(out, golden["out.sr0_o18"]) < 1e-6


def test_box_with_an_empty_axis_gives_zeros_and_no_boxes_give_nothing(golden: dict[str, Tensor]) -> None:
    x = golden["in.x"].clone().requires_grad_()
    line = roi_align(x, torch.tensor([[50.0, 50, 50, 150]]), torch.tensor([0]), 7, SCALE)
    assert line.shape == (1, 6, 7, 7)
    assert not line.any()
    empty = roi_align(x, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 7, SCALE)
    assert empty.shape == (0, 6, 7, 7)
    (line.sum() + empty.sum()).backward()
    assert not x.grad.any()


def test_result_is_channels_last_and_repeatable(golden: dict[str, Tensor]) -> None:
    rois = golden["in.rois"]
    first, second = (roi_align(golden["in.x"], rois[:, 1:], rois[:, 0].long(), 14, SCALE) for _ in range(2))
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(first, second)


def test_location_of_a_bright_cell_survives_flips() -> None:
    x = torch.zeros(1, 1, 10, 20)
    x[0, 0, 2, 15] = 1.0  # pixels 240..256 x 32..48
    boxes = torch.tensor([[200.0, 16, 280, 64], [0, 80, 160, 160], [16, 0, 220, 30]])
    index = torch.zeros(3, dtype=torch.int64)
    out = roi_align(x, boxes, index, 5, SCALE)
    assert out[0].sum() > 1
    assert not out[1:].any()
    row, column = divmod(int(out[0, 0].argmax()), 5)
    assert (row, column) == (2, 2) or (row, column) == (1, 2)
    for axis, length in ((3, 320), (2, 160)):
        low, high = (0, 2) if axis == 3 else (1, 3)
        flipped = boxes.clone()
        flipped[:, low], flipped[:, high] = length - boxes[:, high], length - boxes[:, low]
        torch.testing.assert_close(roi_align(x.flip(axis), flipped, index, 5, SCALE).flip(axis), out)


@pytest.mark.parametrize(
    ("box", "dtype", "message"),
    [
        ([9.0, 0, 1, 5], torch.float32, "box 0 is inverted"),
        ([0.0, 9, 1, 5], torch.float32, "left, top, right, bottom"),
        ([0.0, 0, 1, 5], torch.bfloat16, "float32 or float64"),
    ],
)
def test_unusable_boxes_are_refused(box: list[float], dtype: torch.dtype, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        roi_align(torch.zeros(1, 1, 4, 4), torch.tensor([box], dtype=dtype), torch.tensor([0]), 2, SCALE)


@pytest.mark.gpu
@pytest.mark.parametrize("size", [7, 14, 18])
def test_cuda_equals_cpu_and_is_repeatable(golden: dict[str, Tensor], size: int) -> None:
    rois, cotangent = golden["in.rois"], rules.normal(f"g{size}", (18, 6, size, size), 2)
    results = []
    for device in ("cpu", "cuda", "cuda"):
        x = golden["in.x"].to(device, copy=True).requires_grad_()
        out = roi_align(x, rois[:, 1:].to(device), rois[:, 0].long().to(device), size, SCALE)
        results.append((out.detach().cpu(), torch.autograd.grad(out, x, cotangent.to(device))[0].cpu()))
    for cpu, first, second in zip(*results, strict=True):
        assert relative(first, cpu) < 1e-6
        assert torch.equal(first, second)
