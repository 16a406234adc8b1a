"""Aligned RoIAlign in plain torch, as one weighted gather of feature-map rows.

For axis-aligned boxes RoIAlign is separable, ``out = Wy @ F @ Wx.T`` per region, with a bin-averaged bilinear weight
matrix per axis. Each output cell therefore is a short weighted sum of map cells, which over a channels-last map is an
``embedding_bag``; its adjoint is the same operation with the two index lists swapped. Nothing dense is built, no
extension is compiled.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def roi_align(
    feature_map: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = 0,
) -> Tensor:
    """Aligned (half-pixel) RoIAlign of detectron2, torchvision and mmcv, exact also for the adaptive grid.

    Source: Mask R-CNN (arXiv 1703.06870); semantics of detectron2's ``ROIAlign(aligned=True)``.

    Args:
        feature_map: (B, C, H, W) floating; free of copies when it is channels-last. Differentiable.
        boxes: (M, 4) xyxy float32 or float64, in the pixels that ``spatial_scale`` maps to cells. Not differentiable.
        image_index: (M,) int64, the map each box lies on.
        output_size: P, or (rows, columns), cells of the result.
        spatial_scale: feature cells per pixel, 1/16 for a stride of 16.
        sampling_ratio: samples per bin and axis; 0 takes ceil(extent / P) for each box and axis.

    Returns:
        (M, C, P, P) of the map's dtype, channels-last. Half precision is summed in float32.

    Raises:
        ValueError: on inverted boxes, or boxes that are neither float32 nor float64.
    """
    _check(boxes)
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    channels, height, width = feature_map.shape[1:]
    scaled = boxes * spatial_scale - 0.5
    weight_y = _axis_weights(scaled[:, 1], scaled[:, 3], rows, height, sampling_ratio)  # (M, rows, H)
    weight_x = _axis_weights(scaled[:, 0], scaled[:, 2], columns, width, sampling_ratio)  # (M, columns, W)
    cell, source, weight = _outer_product(weight_y, weight_x, image_index)
    compute = torch.promote_types(feature_map.dtype, torch.float32)
    table = feature_map.permute(0, 2, 3, 1).reshape(-1, channels).to(compute)  # (B * H * W, C)
    pooled = _GatherRows.apply(table, source, cell, weight.to(compute), len(boxes) * rows * columns)
    pooled = pooled.view(len(boxes), rows, columns, channels).to(feature_map.dtype)
    return pooled.permute(0, 3, 1, 2)  # (M, C, rows, columns)


def _check(boxes: Tensor) -> None:
    if boxes.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"boxes are float32 or float64, got {boxes.dtype}: half precision moves a box by whole pixels")
    inverted = (boxes[:, 2:] < boxes[:, :2]).any(1)
    if bool(inverted.any()):
        first = int(inverted.nonzero()[0])
        raise ValueError(f"box {first} is inverted, {boxes[first].tolist()}; give left, top, right, bottom")


def _axis_weights(start: Tensor, end: Tensor, bins: int, length: int, sampling_ratio: int) -> Tensor:
    """Weight of every cell in every bin along one axis.

    Args:
        start: (M,) lower edges in feature cells, half a cell already taken off.
        end: (M,) upper edges.
        bins: P of this axis.
        length: cells of the map along this axis.
        sampling_ratio: samples per bin, or 0.
    """
    extent = (end - start)[:, None, None]  # (M, 1, 1)
    # By a tensor: CUDA divides by a number with its reciprocal, and a bit above a whole number is a sample more below.
    size = extent / torch.full_like(extent, bins)
    grid = torch.full_like(size, sampling_ratio) if sampling_ratio > 0 else size.ceil()
    samples = torch.arange(int(grid.max()) if len(grid) else 0, device=start.device, dtype=start.dtype)
    offsets = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None]  # (P, 1)
    at = start[:, None, None] + offsets * size + (samples + 0.5) * size / grid  # (M, P, G)
    # A sample off the map by more than a cell adds nothing, but still counts in the mean.
    sample_weight = ((samples < grid) & (at >= -1) & (at <= length)) / grid.clamp(min=1)
    at = torch.where(sample_weight > 0, at, 0).clamp(0, length - 1)
    # Bilinear weights as a hat around each sample: a scatter would add in any order on CUDA.
    cells = torch.arange(length, device=start.device)
    hat = (1 - (at[..., None] - cells).abs()).clamp(min=0)  # (M, P, G, length)
    return (sample_weight[..., None] * hat).sum(2)  # (M, P, length)


def _outer_product(weight_y: Tensor, weight_x: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nonzeros of ``weight_y`` x ``weight_x`` as (output cell, map row, weight), ordered by output cell.

    Args:
        weight_y: (M, P, H).
        weight_x: (M, Q, W).
        image_index: (M,) int64.
    """
    (regions, rows, height), (columns, width) = weight_y.shape, weight_x.shape[1:]
    index_y, values_y = _support(weight_y)  # (M, P, K)
    index_x, values_x = _support(weight_x)  # (M, Q, L)
    weight = values_y[:, :, None, :, None] * values_x[:, None, :, None, :]  # (M, P, Q, K, L)
    source = (image_index.view(-1, 1, 1) * height + index_y)[:, :, None, :, None] * width + index_x[:, None, :, None, :]
    kept = weight != 0
    cells = torch.arange(regions * rows * columns, device=weight.device)
    count = kept.flatten(3).sum(3).flatten()  # (M * P * Q,)
    return torch.repeat_interleave(cells, count), source[kept], weight[kept]


def _support(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and values (M, P, K) of the run of cells that holds each bin's nonzero weights."""
    nonzero = weights != 0
    first = nonzero.int().argmax(2, keepdim=True)  # (M, P, 1)
    last = weights.shape[2] - nonzero.flip(2).int().argmax(2, keepdim=True)
    span = torch.where(nonzero.any(2, keepdim=True), last - first, 0)
    run = torch.arange(int(span.max()) if span.numel() else 0, device=weights.device)  # (K,)
    index = (first + run).clamp(max=weights.shape[2] - 1)
    return index, weights.gather(2, index) * (run < span)


class _GatherRows(torch.autograd.Function):
    """``out[cell[n]] += weight[n] * table[source[n]]``; the gradient is the same gather along the other index."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, source: Tensor, cell: Tensor, weight: Tensor, cells: int) -> Tensor:
        ctx.save_for_backward(source, cell, weight)
        ctx.rows = len(table)
        return _gather_rows(table, source, cell, weight, cells)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        source, cell, weight = ctx.saved_tensors
        source, order = source.sort(stable=True)
        return (
            _GatherRows.apply(grad.contiguous(), cell[order], source, weight[order], ctx.rows),
            None,
            None,
            None,
            None,
        )


def _gather_rows(table: Tensor, source: Tensor, cell: Tensor, weight: Tensor, cells: int) -> Tensor:
    """The gather of :class:`_GatherRows` for ``cell`` in ascending order; (cells, C)."""
    if not len(cell):
        return table.new_zeros(cells, table.shape[1])
    offsets = torch.searchsorted(cell, torch.arange(cells, device=cell.device))  # (cells,)
    return F.embedding_bag(source, table, offsets, mode="sum", per_sample_weights=weight)  # (cells, C)
