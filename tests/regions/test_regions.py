"""Every rule at the head of pvit_ext.regions.region, rasterisation against brute force, and equivariance."""

from __future__ import annotations

import itertools
import math
import os
import pickle
import re
import warnings
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pvit_ext.regions.image import image_size
from pvit_ext.regions.region import MAX_PIXEL, Region, RegionError, ResolvedRegion

FAST = settings(max_examples=60, deadline=None, derandomize=True)


# The rules, row by row


@pytest.mark.parametrize(
    "make",
    [
        lambda: Region.box("1", 2, 3, 4),  # type: ignore[arg-type]
        lambda: Region.box(None, 2, 3, 4),  # type: ignore[arg-type]
        lambda: Region.box(True, 2, 3, 4),
        lambda: Region.box(10**400, 2, 3, 4),
        lambda: Region.polygon([(1, 2, 3)]),
        lambda: Region.polygon(["12", "34", "56"]),  # type: ignore[list-item]
        lambda: Region.scribble(5),  # type: ignore[arg-type]
        lambda: Region.polygon([{"x": 1, "y": 2}]),  # type: ignore[list-item]
        lambda: Region.mask(np.zeros((2, 3, 4), bool)),
        lambda: Region.mask(np.zeros((0, 4), bool)),
        lambda: Region.polygon([[1, 2, 3, 4, 5]]),
        lambda: Region.polygon([[1, 2, 3, 4]]),
        lambda: Region.polygon([[[1, 2], [3, 4, 5], [6, 7]]]),
        lambda: Region.polygon([[(1, 2), (3, 4), (5, 6)], (7, 8)]),
        lambda: Region.mask([[1, 0], [1]]),
        lambda: Region.mask(np.full((2, 2), np.nan)),
    ],
)
def test_not_numbers_or_wrong_shape(make: Any) -> None:
    with pytest.raises(RegionError):
        make()


_ODD = st.sampled_from([10**400, math.nan, True, None, "1", 2 * MAX_PIXEL, [1, 2], np.float32(2.5), -0.0])


@given(st.lists(st.lists(st.one_of(st.integers(), st.floats(), _ODD), min_size=1, max_size=3), max_size=5))
@FAST
def test_plain_lists_take_a_short_way_to_the_same_points(points: list[Any]) -> None:
    def outcome(given: Any) -> Any:
        try:
            region = Region.polygon(given)
            region.check()
        except RegionError as error:
            return str(error).split(", got ")[0]
        return region.points, set(map(type, itertools.chain(*region.points)))

    assert outcome(points) == outcome(tuple(points))  # a tuple takes the long one


REFUSED = [
    (Region.box(math.nan, 0, 5, 5), "not finite"),
    (Region.box(0, 0, math.inf, 5), "not finite"),
    (Region.point(math.nan, 1), "not finite"),
    (Region.polygon([(0, 0), (math.inf, 1), (3, 3)]), "not finite"),
    (Region.polygon([(0, 0), (9, math.nan), (3, 3)]), "not finite"),
    (Region.polygon([(0, 0), (-math.inf, math.inf), (3, 3)]), "not finite"),
    (Region.scribble([(0, 0), (2 * MAX_PIXEL, 1)]), "beyond 1e"),
    (Region.box(5, 0, 2, 5), "inverted"),
    (Region.box(0, 5, 5, 2), "inverted"),
    (Region.box(5, 0, 5, 5), "empty"),
    (Region.box(5, 5, 5, 5), "empty"),
    (Region.box(5, 5, 5.001, 9), "empty"),
    (Region.box(0.5, 0.5, 0.5001, 0.9, normalized=True), "empty"),
    (Region.polygon([(1, 1), (5, 1), (9, 1)]), "empty"),
    (Region.polygon([(1, 1), (5, 5)]), "three or more"),
    (Region.polygon([]), "three or more"),
    (Region.scribble([]), "one or more"),
    (Region.mask(np.zeros((20, 30), bool)), "empty"),
    (Region.box(30, 0, 40, 20), "outside"),
    (Region.box(-9, 0, 0, 20), "outside"),
    (Region.box(-9, -9, -1, -1), "outside"),
    (Region.box(29.995, 0, 40, 20), "outside"),
    (Region.box(10, 20, 200, 300, normalized=True), "not in fractions 0..1 of an image"),
    (Region.box(1.5, 1.5, 2, 2, normalized=True), "normalised 0..1 of the 30x20"),
    (Region.point(30.01, 5), "outside"),
    (Region.polygon([(-5, 5), (5, -5), (-5, -5)]), "outside"),
    (Region.polygon([(31, 0), (40, 0), (40, 20)]), "outside"),
    # All around the image, which lies in its hole.
    (Region.polygon([(-9, -9), (40, -9), (40, 30), (-9, 30), (-9, -9),
                     (-5, -5), (-5, 25), (35, 25), (35, -5), (-5, -5)]), "outside"),
    (Region.scribble([(-6, 5), (5, -6)]), "outside"),
    (Region.mask(np.ones((30, 20), bool)), "mask is 20x30, its image 30x20"),
    (Region.box(0, 0, 5, 5, image=-1), "counted from 0"),
]  # fmt: skip


@pytest.mark.parametrize(("region", "reason"), REFUSED, ids=lambda value: str(value)[:50])
def test_refused_with_the_sample_named(region: Region, reason: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RegionError, match=rf"^train.json line 7: .*{re.escape(reason)}"):
            region.resolve((30, 20), "train.json line 7")


def test_partly_outside_is_clipped() -> None:
    assert Region.box(-5, -5, 10, 50).resolve((30, 20)).points == ((0, 0), (10, 20))
    assert Region.box(-1e8, -1e8, 1e8, 1e8).resolve((30, 20)).bounds((30, 20)) == (0, 0, 30, 20)


def test_clipping_a_polygon_keeps_the_direction_of_its_edges() -> None:
    triangle = Region.polygon([(-30, 0), (30, 10), (-30, 20)]).resolve((30, 20))
    assert triangle.bounds((30, 20)) == (0, 5, 30, 15)  # moving the vertices to x = 0 would give 0..20
    assert triangle.to_mask((30, 20))[:, 0].sum() == 10


def test_bounds_of_a_polygon_that_passes_below_the_image() -> None:
    bowl = Region.polygon([(-9, 2), (9, 2), (9, 4), (-5, 4), (-5, 40), (35, 40), (35, 4), (25, 4), (25, 2), (40, 2),
                           (40, 50), (-9, 50)])  # fmt: skip
    assert bowl.resolve((30, 20)).bounds((30, 20)) == (0, 2, 30, 4)


def test_a_polygon_around_the_whole_image_is_the_whole_image() -> None:
    region = Region.polygon([(-9, -9), (90, -9), (90, 90), (-9, 90)]).resolve((30, 20))
    assert region.bounds((30, 20)) == (0, 0, 30, 20)
    assert region.to_mask((30, 20)).all()


def test_a_scribble_that_leaves_and_returns_counts_only_inside() -> None:
    region = Region.scribble([(5, 5), (5, -50), (25, -50), (25, 5)]).resolve((30, 20))
    assert region.bounds((30, 20)) == (4, 0, 26, 6)
    assert not region.to_mask((30, 20))[:, 8:22].any()


@pytest.mark.parametrize(
    ("region", "pixels"),
    [
        (Region.box(3.6, 4.6, 3.9, 4.9), [(4, 3)]),
        (Region.box(0.6, 2, 0.9, 4), [(2, 0), (3, 0)]),
        (Region.box(29.9, 19.9, 30, 20), [(19, 29)]),
        (Region.box(0.7, 0.7, 1.4, 1.4), [(1, 1)]),
        (Region.polygon([(3.1, 4.1), (3.4, 4.1), (3.4, 4.4)]), [(4, 3)]),
    ],
)
def test_smaller_than_a_pixel_is_kept(region: Region, pixels: list[tuple[int, int]]) -> None:
    kept = region.resolve((30, 20))
    assert kept.points == region.points
    assert list(zip(*np.nonzero(kept.to_mask((30, 20))), strict=True)) == pixels


def test_a_sliver_covers_the_pixels_along_it() -> None:
    mask = Region.polygon([(1, 1), (19, 19), (19, 19.02), (1, 1.02)]).resolve((20, 20)).to_mask((20, 20))
    assert mask[np.arange(2, 18), np.arange(2, 18)].all()


@pytest.mark.parametrize("point", [(0, 0), (30, 20), (0, 20), (29.999, 0.001)])
def test_points_on_the_border_are_inside(point: tuple[float, float]) -> None:
    region = Region.point(*point).resolve((30, 20))
    x0, y0, x1, y1 = region.bounds((30, 20))
    assert x1 > x0
    assert y1 > y0
    assert region.to_mask((30, 20)).any()


def test_normalised_and_pixels_agree() -> None:
    pixels = Region.box(3, 4, 15, 10).resolve((30, 20))
    assert Region.box(0.1, 0.2, 0.5, 0.5, normalized=True).resolve((30, 20)).points == pixels.points


def test_masks_from_lists_tensors_and_integers() -> None:
    for pixels in (
        [[0, 1], [0, 0]],
        np.array([[0, 1], [0, 0]], np.uint8),
        torch.tensor([[False, True], [False, False]]),
    ):
        assert Region.mask(pixels).resolve((2, 2)).bounds((2, 2)) == (1, 0, 2, 1)


def test_a_polygon_of_many_vertices_is_named_briefly() -> None:
    region = Region.polygon([(math.nan, 1)] + [(1, 1)] * 5000)
    with pytest.raises(RegionError) as raised:
        region.resolve((30, 20))
    assert len(str(raised.value)) < 300


def test_every_box_of_real_annotations_resolves_or_names_itself() -> None:
    if not os.environ.get("PVIT_EXT_DATA"):
        pytest.skip("PVIT_EXT_DATA is not set")
    folder = Path(os.environ["PVIT_EXT_DATA"]) / "bccd"
    good, refused = 0, []
    for file in sorted((folder / "Annotations").glob("*.xml")):
        size = image_size(folder / "JPEGImages" / f"{file.stem}.jpg")
        for number, box in enumerate(ElementTree.parse(file).getroot().iter("bndbox")):
            edges = [float(box.findtext(name, "nan")) for name in ("xmin", "ymin", "xmax", "ymax")]
            location = f"{file.name} object {number}"
            try:
                region = Region.box(*edges).resolve(size, location)
            except RegionError as error:
                refused.append((location, str(error)))
                continue
            x0, y0, x1, y1 = region.bounds(size)
            assert 0 <= x0 < x1 <= size[0]
            assert 0 <= y0 < y1 <= size[1]
            good += 1
    assert all(message.startswith(f"{location}: ") for location, message in refused)
    # The two boxes of this set whose corners coincide.
    assert [location for location, _ in refused] == ["BloodImage_00338.xml object 12", "BloodImage_00343.xml object 3"]
    assert good == 3941


def test_vertices_on_a_row_of_centres_are_crossed_once() -> None:
    diamond = Region.polygon([(10.2, 2), (18, 10.5), (10.2, 19), (2, 10.5)]).resolve((20, 20))
    assert np.array_equal(np.flatnonzero(diamond.to_mask((20, 20))[10]), np.arange(2, 18))


def test_a_stroke_that_runs_on_outside_counts_with_its_width() -> None:
    region = Region.scribble([(0, 0), (-0.125, 3.75)]).resolve((24, 24))
    rows, _ = np.nonzero(region.to_mask((24, 24)))
    assert rows.max() == 4  # its centre is 0.976 px from the end
    assert region.bounds((24, 24)) == (0, 0, 1, 4.75)


@pytest.mark.parametrize(
    "region",
    [
        Region.box(-5, 3, 12, 9, image=1),
        Region.box(0.1, 0.2, 0.5, 0.6, normalized=True, image=1),
        Region.polygon([(1, 1), (40, 2), (5, 15)], image=1),
        Region.mask(np.eye(20, 30), image=1),
    ],
)
def test_resolved_once(region: Region) -> None:
    """It keeps its image and its name, and is not resolved again."""
    resolved = region.resolve((30, 20), "query 3, region 1")
    assert isinstance(resolved, ResolvedRegion)
    assert (resolved.size, resolved.name, resolved.image) == ((30, 20), "query 3, region 1", 1)
    assert resolved.resolve((30, 20), "sample 0, region 0") is resolved
    assert pickle.loads(pickle.dumps(resolved)).name == resolved.name  # from data workers
    with pytest.raises(RegionError, match=r"query 3, region 1: its image has 30x20 pixels, this one 20x30"):
        resolved.resolve((20, 30))
