"""RoIAlign written two other ways: a scalar loop (oracle) and dense matrices per region (benchmark)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def naive(
    feature_map: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = 0,
) -> Tensor:
    """One sample after another in python floats, that is in float64."""
    size = (output_size, output_size) if isinstance(output_size, int) else output_size
    out = feature_map.new_zeros(len(boxes), feature_map.shape[1], *size)
    for m, box in enumerate(boxes.tolist()):
        x0, y0, x1, y1 = (value * spatial_scale - 0.5 for value in box)
        for row in range(size[0]):
            for column in range(size[1]):
                ys = _samples(y0, y1, row, size[0], sampling_ratio)
                xs = _samples(x0, x1, column, size[1], sampling_ratio)
                for y in ys:
                    for x in xs:
                        out[m, :, row, column] += _bilinear(feature_map[image_index[m]], y, x) / (len(ys) * len(xs))
    return out


def _samples(start: float, end: float, cell: int, cells: int, sampling_ratio: int) -> list[float]:
    extent = end - start
    size = extent / cells
    count = sampling_ratio or math.ceil(size)
    return [start + cell * size + (i + 0.5) * size / count for i in range(count)]


def _bilinear(plane: Tensor, y: float, x: float) -> Tensor:
    height, width = plane.shape[1:]
    if y < -1 or y > height or x < -1 or x > width:
        return plane.new_zeros(plane.shape[0])
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = plane[:, top, left] * (1 - (x - left)) + plane[:, top, right] * (x - left)
    lower = plane[:, bottom, left] * (1 - (x - left)) + plane[:, bottom, right] * (x - left)
    return upper * (1 - (y - top)) + lower * (y - top)


def dense(feature_map: Tensor, boxes: Tensor, image_index: Tensor, output_size: int, spatial_scale: float) -> Tensor:
    """``Wy @ F @ Wx.T`` per region with whole-axis matrices, adaptive grid."""
    channels, height, width = feature_map.shape[1:]
    out = feature_map.new_zeros(len(boxes), channels, output_size, output_size)
    for image in image_index.unique().tolist():
        chosen = (image_index == image).nonzero().flatten()
        scaled = (boxes[chosen] * spatial_scale - 0.5).tolist()
        weight_y = torch.stack([_matrix(b[1], b[3], output_size, height) for b in scaled]).to(feature_map)  # (N, P, H)
        weight_x = torch.stack([_matrix(b[0], b[2], output_size, width) for b in scaled]).to(feature_map)  # (N, P, W)
        by_row = feature_map[image].transpose(0, 1).reshape(height, -1)  # (H, C * W)
        rows = (weight_y @ by_row).view(len(chosen), output_size * channels, width)  # (N, P * C, W)
        pooled = (rows @ weight_x.transpose(1, 2)).view(len(chosen), output_size, channels, output_size)
        out = out.index_copy(0, chosen, pooled.transpose(1, 2))
    return out  # (M, C, P, P)


def _matrix(start: float, end: float, cells: int, length: int) -> Tensor:
    size = (end - start) / cells
    count = math.ceil(size)
    at = start + torch.arange(cells)[:, None] * size + (torch.arange(count) + 0.5) * size / max(count, 1)
    inside = (at >= -1) & (at <= length)
    hat = 1 - (at.clamp(0, length - 1)[..., None] - torch.arange(length)).abs()  # (P, G, length)
    return (hat.clamp(min=0) * inside[..., None]).sum(1) / max(count, 1)
