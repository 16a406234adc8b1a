"""Rasterised regions against brute force, and how they move, scale and flip with their image."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pvit_ext.regions.extent import stroke_radius
from pvit_ext.regions.raster import fill_polygon
from pvit_ext.regions.region import MAX_FRACTION, Region, RegionError
from tests.regions.test_regions import FAST

SIZES = [(24, 24), (37, 16), (11, 40)]  # square, wide, tall; (width, height)


def inside(region: Region, x: float, y: float, size: tuple[int, int]) -> bool:
    """Oracle: one point at a time, by winding angles for polygons and by the nearest of many samples for strokes."""
    if region.kind == "box":
        (x0, y0), (x1, y1) = region.points
        return x0 <= x < x1 and y0 <= y < y1
    if region.kind == "polygon":
        corners = [math.atan2(py - y, px - x) for px, py in region.points]
        turns = (b - a for a, b in zip(corners, corners[1:] + corners[:1], strict=True))
        total = sum((turn + math.pi) % (2 * math.pi) - math.pi for turn in turns)
        return round(total / (2 * math.pi)) % 2 == 1
    points = np.array(region.points if len(region.points) > 1 else region.points * 2)
    steps = np.linspace(0, 1, 2001)[:, None]
    samples = np.concatenate([a + steps * (b - a) for a, b in itertools.pairwise(points)])
    return bool(np.hypot(*(samples - (x, y)).T).min() <= stroke_radius(size))


def brute_force(region: Region, size: tuple[int, int]) -> NDArray[np.bool_]:
    width, height = size
    return np.array([[inside(region, x + 0.5, y + 0.5, size) for x in range(width)] for y in range(height)])


# Multiples of 1/8 px that are never a pixel's centre: there flipping swaps the closed and the open side.
eighths = st.integers(-120, 360).filter(lambda value: value % 8 != 4).map(lambda value: value / 8)


@st.composite
def shapes(draw: st.DrawFn, kinds: tuple[str, ...] = ("box", "point", "polygon", "scribble")) -> Region:
    kind = draw(st.sampled_from(kinds))
    if kind == "box":
        x0, y0 = draw(eighths), draw(eighths)
        wide, tall = draw(st.integers(1, 240)), draw(st.integers(1, 240))
        assume((x0 * 8 + wide) % 8 != 4 and (y0 * 8 + tall) % 8 != 4)
        return Region.box(x0, y0, x0 + wide / 8, y0 + tall / 8)
    pairs = st.tuples(eighths, eighths)
    if kind == "point":
        return Region.point(*draw(pairs))
    count = (3, 7) if kind == "polygon" else (1, 5)
    return getattr(Region, kind)(draw(st.lists(pairs, min_size=count[0], max_size=count[1])))


def resolved(region: Region, size: tuple[int, int]) -> Region:
    try:
        return region.resolve(size)
    except RegionError:
        assume(False)
        raise


def moved(region: Region, scale: tuple[float, float], shift: tuple[float, float]) -> Region:
    points = [(x * scale[0] + shift[0], y * scale[1] + shift[1]) for x, y in region.points]
    if region.kind == "box":
        (xa, ya), (xb, yb) = points
        points = [(min(xa, xb), min(ya, yb)), (max(xa, xb), max(ya, yb))]
    assume(max(itertools.chain(*points)) > 1.1)  # else they are taken for fractions
    return Region(region.kind, tuple(points), parts=region.parts)


@given(shapes(), st.sampled_from(SIZES))
@FAST
@pytest.mark.slow
def test_mask_is_what_brute_force_finds(region: Region, size: tuple[int, int]) -> None:
    """Also for shapes that reach outside: the oracle sees the whole shape, so clipping must not bend an edge."""
    region = resolved(region, size)
    mask, expected = region.to_mask(size), brute_force(region, size)
    assert mask.shape == (size[1], size[0])
    assert mask.dtype == np.bool_
    if region.kind in ("point", "scribble"):  # the oracle samples the stroke, so rim pixels may differ
        assert (mask & ~expected).sum() <= 1 + 0.02 * mask.sum()
        assert not (expected & ~mask).any()
    elif region.kind == "polygon":
        wrong = fill_polygon(region.points, size) != expected
        assert not [p for p in np.argwhere(wrong) if not on_edge(region, p[1] + 0.5, p[0] + 0.5)]
    elif expected.any():  # a box without any pixel centre has its own test
        assert np.array_equal(mask, expected)
    assert mask.any()


def on_edge(region: Region, x: float, y: float) -> bool:
    """The pixel's centre lies on the outline, where inside and outside are a matter of convention."""
    points = np.array(region.points)
    for a, b in zip(points, np.roll(points, -1, axis=0), strict=True):
        along = np.clip(np.dot((x, y) - a, b - a) / max(np.dot(b - a, b - a), 1e-12), 0, 1)
        if np.hypot(*(a + along * (b - a) - (x, y))) < 1e-9:
            return True
    return False


@given(shapes(), st.sampled_from(SIZES))
@FAST
def test_bounds_hold_the_mask_tightly(region: Region, size: tuple[int, int]) -> None:
    region = resolved(region, size)
    x0, y0, x1, y1 = region.bounds(size)
    assert 0 <= x0 < x1 <= size[0]
    assert 0 <= y0 < y1 <= size[1]
    rows, columns = np.nonzero(region.to_mask(size))
    assert columns.min() + 1 >= x0
    assert columns.max() <= x1
    assert rows.min() + 1 >= y0
    assert rows.max() <= y1


@given(shapes(), st.sampled_from(SIZES))
@FAST
def test_flipping_image_and_region_flips_the_mask(region: Region, size: tuple[int, int]) -> None:
    region = resolved(region, size)
    width, height = size
    mask = region.to_mask(size)
    assume(region.kind in ("point", "scribble") or brute_force(region, size).any())
    assume(region.kind != "polygon" or not centre_on_edge(region, size))
    for scale, shift, axis in (((-1, 1), (width, 0), 1), ((1, -1), (0, height), 0)):
        flipped = moved(region, scale, shift).resolve(size)
        assert np.array_equal(flipped.to_mask(size), np.flip(mask, axis))
        assert flipped.bounds(size)[axis ^ 1] == pytest.approx(size[axis ^ 1] - region.bounds(size)[(axis ^ 1) + 2])


def centre_on_edge(region: Region, size: tuple[int, int]) -> bool:
    return any(on_edge(region, x + 0.5, y + 0.5) for y, x in np.ndindex(size[1], size[0]))


@given(shapes(("box", "polygon")), st.sampled_from(SIZES), st.integers(2, 4))
@FAST
def test_scaling_image_and_region_scales_bounds(region: Region, size: tuple[int, int], factor: int) -> None:
    region, large = resolved(region, size), (size[0] * factor, size[1] * factor)
    scaled = moved(region, (factor, factor), (0, 0)).resolve(large)
    assert scaled.bounds(large) == pytest.approx([value * factor for value in region.bounds(size)])
    normalized = [(x / size[0], y / size[1]) for x, y in region.points]
    assume(max(map(abs, itertools.chain(*normalized))) <= MAX_FRACTION)
    again = Region(region.kind, tuple(normalized), normalized=True).resolve(large)
    assert again.bounds(large) == pytest.approx(scaled.bounds(large))


@given(shapes(), st.integers(0, 9), st.integers(0, 9))
@FAST
def test_translating_image_and_region_translates_the_mask(region: Region, right: int, down: int) -> None:
    """A larger canvas may show more of what was clipped, so only the part that the small one shows is compared."""
    region = resolved(region, (24, 24))
    assume(region.kind != "polygon" or fill_polygon(region.points, (24, 24)).any())
    assume(region.kind != "box" or brute_force(region, (24, 24)).any())
    large = (24 + right, 24 + down)
    inner = moved(region, (1, 1), (right, down)).resolve(large).to_mask(large)[down:, right:]
    assert np.array_equal(inner, region.to_mask((24, 24)))


@pytest.mark.parametrize("size", SIZES)
def test_a_mask_resolves_to_itself_and_flips(size: tuple[int, int]) -> None:
    pixels = np.zeros((size[1], size[0]), bool)
    pixels[2:5, 3:10] = True
    region = Region.mask(pixels).resolve(size)
    assert np.array_equal(region.to_mask(size), pixels)
    assert region.bounds(size) == (3, 2, 10, 5)
    assert Region.mask(pixels[:, ::-1]).resolve(size).bounds(size) == (size[0] - 10, 2, size[0] - 3, 5)
