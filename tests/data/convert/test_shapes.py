"""Boxes and shapes agree with what training resolves a region to."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from pvit_ext.data.convert import clipping, shapes
from pvit_ext.data.convert.annotation import Annotation
from pvit_ext.data.convert.encode_mask import encode_mask
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.region_fields import parse_region
from pvit_ext.regions.region import FRACTIONS, Region, RegionError
from pvit_ext.regions.run_lengths import parse_run_lengths

SIZE = (40, 30)
NUMBER = st.one_of(st.integers(-20, 60), st.floats(-20, 60).map(lambda value: round(value, 4)))


def _trains(spec):
    try:
        return parse_region(spec, "region", None).resolve(SIZE)
    except (RegionError, ValueError):
        return None


@given(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER))
@settings(max_examples=150, deadline=None)
def test_a_box_is_kept_exactly_when_it_trains(box):
    found = shapes.boxed(box, SIZE, Notes(), of_fractions=True)
    rounded = [round(value, clipping.DECIMALS) for value in box]
    resolved = _trains(rounded)
    in_corner = max(rounded[2:]) <= FRACTIONS[1] or min(min(rounded[2], 40) - max(rounded[0], 0), 1) < 0.02
    if isinstance(found, Annotation):
        assert resolved is not None
        assert _trains(found.region).bounds(SIZE) == resolved.bounds(SIZE) == found.box
    else:
        assert resolved is None or in_corner


@given(st.lists(st.tuples(NUMBER, NUMBER), min_size=3, max_size=6))
@settings(max_examples=150, deadline=None)
def test_an_outline_that_is_kept_trains(points):
    found = shapes.outlined([[value for point in points for value in point]], SIZE, Notes(), of_fractions=True)
    if isinstance(found, Annotation):
        assert _trains(found.region) is not None


def test_conventions():
    assert shapes.xywh([1, 2, 3, 4]) == (1, 2, 4, 6)
    assert shapes.centred([5, 5, 4, 2]) == (3, 4, 7, 6)
    assert shapes.scaled([0.5, 0.5, 1, 1], SIZE) == [20, 15, 40, 30]
    assert shapes.scaled([500, 500], SIZE, 1000) == [20, 15]
    assert shapes.rotated([(2, 0)], (0, 0), 90) == pytest.approx([0, 2])  # clockwise: y runs down
    outline = shapes.ellipse((10, 10), (4, 2))
    assert (min(outline[::2]), max(outline[1::2])) == pytest.approx((6, 12))


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((5, 5, 5, 9), Reason.DEGENERATE),
        ((9, 9, 5, 5), Reason.DEGENERATE),
        ((40, 0, 50, 10), Reason.OUTSIDE),
        ((-9, 0, 0, 10), Reason.OUTSIDE),
        ((0, 0, 1, 1), Reason.DEGENERATE),
        ((-5, -5, 0.9, 0.9), Reason.DEGENERATE),
        ((0.5, 0.5, 0.5, 0.9), Reason.DEGENERATE),
        ((-1, -1, 41, 31), (0, 0, 40, 30)),
        ((1 / 3, 0, 2 + 1e-9, 2), (0.333, 0, 2, 2)),
    ],
)
def test_clip(box, expected):
    assert clipping.clip_box(box, SIZE, Notes()) == expected


def test_fractions_in_place_of_pixels_are_bad_and_pixels_made_of_fractions_are_not():
    corners, outline, fraction = (0.1, 0.2, 0.4, 0.6), [0.1, 0.2, 0.9, 0.2, 0.9, 0.9], "fractions of the image's sides"
    for make in (
        lambda **given: shapes.boxed(corners, SIZE, Notes(), **given),
        lambda **given: shapes.outlined([outline], SIZE, Notes(), **given),
        lambda **given: shapes.pointed("point", [0.3, 0.4], SIZE, **given),
        lambda **given: shapes.turned_box(corners, (0, 0), 0, SIZE, Notes(), **given),
    ):
        with pytest.raises(BadItem, match=rf"\[0\.\d.*top-left pixel, these seem to be {fraction}; expected pixels"):
            make()
        if "point" not in str(found := make(of_fractions=True)):
            assert isinstance(found, Reason)
        else:
            assert found.region == {"point": [0.3 / SIZE[0], 0.4 / SIZE[1]], "normalized": True}


def test_run_lengths():
    found = shapes.masked({"size": [2, 3], "counts": [1, 2, 3], "extra": 1}, (3, 2), label="a")
    assert (found.region, found.box, found.label) == (
        {"mask": {"size": [2, 3], "counts": [1, 2, 3]}},
        (0, 0, 2, 2),
        "a",
    )
    assert shapes.masked({"size": [2, 3], "counts": [6]}, (3, 2)) is Reason.DEGENERATE
    with pytest.raises(BadItem, match="segmentation is 3x2, its image 2x3"):
        shapes.masked({"size": [2, 3], "counts": [1, 2, 3]}, (2, 3))
    with pytest.raises(BadItem, match="run lengths sum to 7"):
        shapes.masked({"size": [2, 3], "counts": [1, 2, 4]}, (3, 2))


@pytest.mark.parametrize(
    "values", [None, "1234", [1, 2, 3], [1, 2, 3, "4"], [1, 2, 3, float("inf")], [1, 2, 3, True], [0, 0, 0, 1e10]]
)
def test_what_is_no_list_of_numbers(values):
    with pytest.raises(BadItem, match="bbox is a list of 4 finite numbers"):
        shapes.numbers(values, 4, "bbox")


@pytest.mark.skipif("PVIT_EXT_DATA" not in os.environ, reason="PVIT_EXT_DATA names no folder of real data")
def test_run_lengths_of_gar_bench_are_those_of_pycocotools():
    records = json.loads(Path(os.environ["PVIT_EXT_DATA"], "gar_bench/GAR-Bench-VQA.json").read_text())
    values = [value for record in records for value in record["mask_rles"]]
    assert len(values) > 400
    for value in values[::7]:
        height, width = value["size"]
        found = shapes.masked(value, (width, height))
        truth = {"size": value["size"], "counts": value["counts"].encode()}
        x, y, w, h = coco_mask.toBbox(truth)
        assert found.box == (x, y, x + w, y + h)
        pixels = parse_run_lengths(found.region["mask"]).decode()
        assert (pixels == coco_mask.decode(truth).astype(bool)).all()
        assert (parse_run_lengths(encode_mask(pixels)).decode() == pixels).all()


@pytest.mark.parametrize(
    ("full", "values", "size", "region"),
    [
        (1000, [125, 333, 500, 833], (64, 48), [8, 15.984, 32, 39.984]),
        (1, [0.125, 0.5, 1.2, 1.0], (80, 40), [10, 20, 80, 40]),
        (1000, [125, 250, 500, 750], None, {"box": [0.125, 0.25, 0.5, 0.75], "normalized": True}),
        (1, [-0.1, 0.5, 0.5, 1.5], None, {"box": [0, 0.5, 0.5, 1], "normalized": True}),
        (1000, [500, 250, 125, 750], (64, 48), Reason.DEGENERATE),
        (1000, [500, 250, 125, 750], None, Reason.DEGENERATE),
        (1, [1.5, 0.5, 2.5, 1.0], (64, 48), Reason.OUTSIDE),
        (1, [1.5, 0.5, 2.5, 1.0], None, Reason.OUTSIDE),
    ],
)
def test_boxes_in_parts_of_a_side(full, values, size, region):
    found = shapes.boxed_in(full, values, size, Notes())
    assert (found if isinstance(found, Reason) else found.region) == region


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_the_box_around_run_lengths_is_that_of_their_pixels(height, width, data):
    pixels = np.array(data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width)))
    pixels = pixels.reshape(height, width)
    encoded = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    spec = {"size": [height, width], "counts": encoded["counts"].decode()}
    found = shapes.masked(spec, (width, height))
    if not pixels.any():
        assert found is Reason.DEGENERATE
        return
    x, y, box_width, box_height = coco_mask.toBbox(encoded).tolist()
    assert found.box == (x, y, x + box_width, y + box_height) == Region.mask(spec).bounds((width, height))
