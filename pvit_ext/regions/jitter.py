"""PVIT's augmentation of boxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pvit_ext.regions.region import ResolvedRegion


def jitter_box(region: ResolvedRegion, fraction: float, draw: np.random.Generator) -> ResolvedRegion:
    """Move each side of a box by up to ``fraction`` (below 0.5) of its width or height.

    Other kinds stay. So do boxes below one pixel: clipping could bring them below the least size.
    """
    if region.kind != "box" or not fraction:
        return region
    (x0, y0), (x1, y1) = region.points
    width, height = x1 - x0, y1 - y0
    if min(width, height) < 1:
        return region
    left, top, right, bottom = draw.uniform(-fraction, fraction, 4).tolist()
    start = max(x0 + left * width, 0.0), max(y0 + top * height, 0.0)
    end = min(x1 + right * width, float(region.size[0])), min(y1 + bottom * height, float(region.size[1]))
    return replace(region, points=(start, end))
