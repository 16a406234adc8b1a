"""Clipping and rasterising shapes, in the continuous pixel coordinates of :mod:`pvit_ext.regions.region`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Box = tuple[float, float, float, float]
Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]


def hull(points: Iterable[Iterable[float]]) -> Box:
    """The smallest box (x0, y0, x1, y1) around the points."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def contains(points: Sequence[Point], x: float, y: float) -> bool:
    """Whether a closed polygon contains the point, by the even-odd rule."""
    inside = False
    for (xa, ya), (xb, yb) in zip(points, [*points[1:], points[0]], strict=True):
        if (ya <= y) != (yb <= y) and x < xa + (y - ya) * (xb - xa) / (yb - ya):
            inside = not inside
    return inside


def clip_polyline(points: Sequence[Point], window: Box) -> list[tuple[Point, Point]]:
    """The polyline's segments inside the window (Liang and Barsky, 1984); one point makes a segment of no length."""
    pairs = zip(points, points[1:] or points, strict=False)
    return [segment for a, b in pairs if (segment := _clip_segment(a, b, window)) is not None]


def _clip_segment(a: Point, b: Point, window: Box) -> tuple[Point, Point] | None:
    start, end = 0.0, 1.0
    for axis in (0, 1):
        step = b[axis] - a[axis]
        low, high = window[axis] - a[axis], window[axis + 2] - a[axis]
        if step == 0:
            if low > 0 or high < 0:
                return None
            continue
        first, last = sorted((low / step, high / step))
        start, end = max(start, first), min(end, last)
    if start > end:
        return None
    dx, dy = b[0] - a[0], b[1] - a[1]
    head = a if start == 0 else (a[0] + start * dx, a[1] + start * dy)
    tail = b if end == 1 else (a[0] + end * dx, a[1] + end * dy)
    return head, tail


def fill_box(box: Box, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centre lies in [x0, x1) x [y0, y1), bool (H, W); if an axis has none, its pixel at the middle."""
    spans = []
    for low, high, limit in ((box[1], box[3], size[1]), (box[0], box[2], size[0])):
        first, last = math.ceil(low - 0.5), math.ceil(high - 0.5)
        middle = min(int((low + high) / 2), limit - 1)
        spans.append(slice(first, last) if first < last else slice(middle, middle + 1))
    mask = np.zeros(size[::-1], dtype=np.bool_)
    mask[tuple(spans)] = True
    return mask


def fill_polygon(points: Sequence[Point], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels whose centre lies inside a closed polygon by the even-odd rule, bool (H, W).

    Args:
        points: vertices in pixels; they may lie outside the image.
        size: (width, height).
    """
    width, height = size
    vertices = np.asarray(points, dtype=np.float64)
    (xa, ya), (xb, yb) = vertices.T, np.roll(vertices, -1, axis=0).T  # (E,) each
    y = np.arange(height)[:, None] + 0.5
    row, edge = np.nonzero((ya <= y) != (yb <= y))  # each edge crosses each row once or never
    crossing = xa[edge] + (y[row, 0] - ya[edge]) * (xb[edge] - xa[edge]) / (yb[edge] - ya[edge])
    count = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)  # centres left of the crossing
    toggles = np.zeros((height, width + 1), dtype=np.bool_)
    np.logical_xor.at(toggles, (row, count), True)
    return np.logical_xor.accumulate(toggles[:, :0:-1], axis=1)[:, ::-1]  # (H, W)


def draw_polyline(points: Sequence[Point], size: tuple[int, int], radius: float) -> NDArray[np.bool_]:
    """Pixels whose centre lies within ``radius`` of an open polyline, bool (H, W).

    Args:
        points: vertices in pixels; they may lie outside the image.
        size: (width, height).
        radius: pixels.
    """
    width, height = size
    mask = np.zeros((height, width), dtype=np.bool_)
    for a, b in clip_polyline(points, (-radius, -radius, width + radius, height + radius)):
        x0, y0, x1, y1 = hull((a, b))
        left, top = max(int(x0 - radius), 0), max(int(y0 - radius), 0)
        right, bottom = min(int(x1 + radius) + 1, width), min(int(y1 + radius) + 1, height)
        x, y = np.meshgrid(np.arange(left, right) + 0.5 - a[0], np.arange(top, bottom) + 0.5 - a[1], sparse=True)
        dx, dy = b[0] - a[0], b[1] - a[1]
        along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-12), 0.0, 1.0)  # of the nearest point
        mask[top:bottom, left:right] |= (x - along * dx) ** 2 + (y - along * dy) ** 2 <= radius**2
    return mask


def trace_polyline(points: Sequence[Point], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels that an open polyline crosses (by four samples a pixel), bool (H, W)."""
    width, height = size
    mask = np.zeros((height, width), dtype=np.bool_)
    for a, b in clip_polyline(points, (0.0, 0.0, width, height)):
        x, y = np.linspace(a, b, int(4 * math.dist(a, b)) + 2).T.astype(np.int64)
        mask[y.clip(0, height - 1), x.clip(0, width - 1)] = True
    return mask


def outline(mask: Mask, line: int) -> Mask:
    """The pixels of a mask within ``line`` of its edge, the image's border included; bool (H, W)."""
    spans = []
    for count in mask.shape:
        at = np.arange(count)
        spans += [(at - line).clip(0), (at + line + 1).clip(max=count)]
    inside: Mask = count_within(mask, spans[0], spans[1], spans[2], spans[3]) == (2 * line + 1) ** 2
    return mask & ~inside


def count_within(mask: NDArray[np.bool_], top: Ints, bottom: Ints, left: Ints, right: Ints) -> Ints:
    """How many are set in ``mask[top[i]:bottom[i], left[j]:right[j]]``, for all i and j."""
    table = np.pad(mask, ((1, 0), (1, 0))).cumsum(0, dtype=np.int64).cumsum(1)  # of all rectangles from the corner
    strips = table[bottom] - table[top]
    counts: Ints = strips[:, right] - strips[:, left]
    return counts
