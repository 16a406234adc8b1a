"""Masks: one rule for their values, whether from arrays, files or run lengths; polygons of several parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pvit_ext.data.check import validate
from pvit_ext.data.records import load_records
from pvit_ext.regions.mask import PendingMask
from pvit_ext.regions.region import Region, RegionError, ResolvedRegion
from pvit_ext.regions.run_lengths import decompress, parse_run_lengths
from tests.data.records import record, write

SIZE = (40, 20)


def disc() -> NDArray[np.bool_]:
    y, x = np.mgrid[:20, :40]
    return (x - 20) ** 2 + (y - 10) ** 2 < 49


def saved(folder: Path, image: Image.Image, name: str = "m.png", **options: Any) -> Region:
    """The mask as a data file reads it; the command line and ``Region.mask`` share its code."""
    image.save(folder / name, **options)
    return PendingMask(name).load(str(folder), "train.json line 1")


# Values


@pytest.mark.parametrize(
    "values",
    [disc(), disc().astype(np.uint8), disc() * np.uint8(255), disc() * np.int16(-7), disc().astype(np.float64)],
    ids=["bool", "0 and 1", "0 and 255", "0 and -7", "float"],
)
def test_arrays_of_two_values(values: NDArray[Any]) -> None:
    assert np.array_equal(Region.mask(values).to_mask(SIZE), disc())


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (disc() * 3 + disc().T[:20, :20].any(), "pick one label"),
        (np.arange(800).reshape(20, 40), "has 800, up to 799"),
        (disc() * 0.5, "threshold it"),
        (np.where(disc(), np.nan, 0), "threshold it"),
        (disc().astype(str), "holds bool"),
        (disc().astype(complex), "holds bool"),
    ],
)
def test_arrays_of_other_values_are_refused(values: NDArray[Any], reason: str) -> None:
    with pytest.raises(RegionError, match=reason):
        Region.mask(values)


# Files


@pytest.mark.parametrize("mode", ["1", "L", "P"])
@pytest.mark.parametrize("inside", [1, 255])
def test_files_of_one_channel(tmp_path: Path, mode: str, inside: int) -> None:
    image = Image.fromarray(disc().astype(np.uint8) * inside)
    if mode == "P":
        image = Image.fromarray(disc().astype(np.uint8) * inside, "P")
        image.putpalette([0, 0, 0] + [9, 200, 9] * 255)
    image = Image.fromarray(disc()) if mode == "1" else image
    assert np.array_equal(saved(tmp_path, image).to_mask(SIZE), disc())


def test_sixteen_bits(tmp_path: Path) -> None:
    image = Image.fromarray(disc().astype(np.uint16) * 300)  # its low byte alone would do too, its high byte is 1
    assert np.array_equal(saved(tmp_path, image).to_mask(SIZE), disc())


REFUSED = {
    "jpeg": (Image.fromarray(disc().astype(np.uint8) * 255), "m.jpg", "JPEG file has noise"),
    "jpeg by another name": (Image.fromarray(disc().astype(np.uint8) * 255), "JPEG", "JPEG file has noise"),
    "colour": (Image.fromarray(disc().astype(np.uint8) * 255).convert("RGB"), "m.png", "3 channels"),
    "transparency": (Image.fromarray(disc().astype(np.uint8) * 255).convert("LA"), "m.png", "2 channels"),
    "soft edges": (Image.fromarray(disc().astype(np.uint8) * 255).resize((80, 40)), "m.png", "threshold soft edges"),
    "float": (Image.fromarray(disc().astype(np.float32) / 3), "m.tiff", "threshold it"),
    "labels": (Image.fromarray(disc().astype(np.uint8) + disc().cumsum(0).astype(np.uint8)), "m.png", "pick one"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_break_a_rule_are_refused(tmp_path: Path, case: str) -> None:
    image, name, reason = REFUSED[case]
    options = {"format": "JPEG"} if name == "JPEG" else {}
    with pytest.raises(RegionError, match=rf"^train.json line 1: .*{reason}"):
        saved(tmp_path, image, "m.png" if options else name, **options)


@pytest.mark.parametrize("palette", [[255, 255, 255] + [0, 0, 0] * 255, [0, 0, 0] * 256, [128, 0, 0] * 256])
def test_a_palette_whose_background_is_not_black_is_refused(tmp_path: Path, palette: list[int]) -> None:
    image = Image.fromarray(disc().astype(np.uint8), "P")
    image.putpalette(palette)
    with pytest.raises(RegionError, match="index 0, and it alone, must be black"):
        saved(tmp_path, image)


def test_several_objects_of_one_palette_are_refused(tmp_path: Path) -> None:
    """As of Pascal VOC's instances, or with its border of another index: in one colour they would be one region."""
    labels = disc().astype(np.uint8)
    labels[:3] = 2
    image = Image.fromarray(labels, "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [0, 0, 0] * 253)
    with pytest.raises(RegionError, match="a mask has 0 and one other value; this one has 3, up to 2: pick one label"):
        saved(tmp_path, image)


# Compressed run lengths: counts that pycocotools 2.0.11 wrote


def written_masks() -> dict[str, tuple[str, NDArray[np.bool_]]]:
    y, x = np.mgrid[:37, :53]
    columns = np.mgrid[:300, :400][1]
    low, far = np.mgrid[:2, :2000]
    ellipse = "b87m02N2O0O2N2O000O2O000O2O00000000000000000000000000000001N10001N10001N2N101N2Ne7"
    long = "71W6" + "0" * 27 + "KUo0"
    return {
        "ellipse": (ellipse, (x - 26) ** 2 / 400 + (y - 18) ** 2 / 100 < 1),
        "first pixel": ("01Xm1", (x == 0) & (y == 0)),
        "all": ("0Ym1", x >= 0),
        "large": ("\\9Xcd3\\9", (columns > 0) & (columns % 399 != 0)),
        "long runs then short": (long, (far > 1500) | (far % 100 == 3) & (low == 1)),
    }


@pytest.mark.parametrize("name", written_masks())
@pytest.mark.parametrize("as_bytes", [False, True])
def test_compressed_run_lengths(name: str, as_bytes: bool) -> None:
    counts, expected = written_masks()[name]
    value: Any = {"size": list(expected.shape), "counts": counts.encode() if as_bytes else counts}
    assert np.array_equal(Region.mask(value).pixels, expected)


def test_compressed_run_lengths_in_a_record(tmp_path: Path) -> None:
    Image.new("RGB", (53, 37)).save(tmp_path / "a.png")
    counts, expected = written_masks()["ellipse"]
    path = write(tmp_path, [record(regions=[{"mask": {"size": [37, 53], "counts": counts}}])])
    assert validate(path, tmp_path, check_images=True) == []
    assert np.array_equal(load_records(path, tmp_path)[0].regions[0].to_mask((53, 37)), expected)


def compressed(counts: list[int]) -> str:
    """The other way, from the definition, one character at a time."""
    text = ""
    for number, count in enumerate(counts):
        rest, more = count - (counts[number - 2] if number > 2 else 0), True
        while more:
            code, rest = rest & 31, rest >> 5
            more = rest != (-1 if code & 16 else 0)
            text += chr(code + 32 * more + 48)
    return text


@given(st.lists(st.integers(0, 2**28), min_size=1, max_size=40))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_counts_come_back(counts: list[int]) -> None:
    assert decompress(compressed(counts)) == counts


@given(st.text(max_size=12) | st.binary(max_size=12))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_text_is_run_lengths_or_an_error(text: Any) -> None:
    try:
        found = parse_run_lengths({"size": [4, 4], "counts": text})
    except ValueError:
        return
    assert found.decode().shape == (4, 4)


@pytest.mark.parametrize(
    ("counts", "reason"),
    [("", "no compressed"), ("é", "no compressed"), ("Q", "no compressed"), ("o" * 20 + "0", "longer than any image"),
     ("5", "sum to 5"), ("4", "mask is empty"), ("@4", "none negative")],
)  # fmt: skip
def test_text_that_is_none(counts: str, reason: str) -> None:
    with pytest.raises(RegionError, match=reason):
        Region.mask({"size": [2, 2], "counts": counts})


# Polygons of several parts


def parts() -> list[list[float]]:
    return [[2.5, 3.0, 20.25, 4.0, 18.0, 16.5, 4.0, 15.0], [25.0, 2.0, 36.5, 2.0, 36.5, 18.0, 30.0, 10.0, 25.0, 18.0]]


def test_parts_in_every_form_are_one_region() -> None:
    pairs = [list(zip(part[::2], part[1::2], strict=True)) for part in parts()]
    for form in (parts(), pairs, [np.array(pair) for pair in pairs], [np.array(part) for part in parts()]):
        region = Region.polygon(form).resolve(SIZE)
        assert region.parts == (4, 5)
        assert region.bounds(SIZE) == (2.5, 2.0, 36.5, 18.0)
        single = [Region.polygon(pair).resolve(SIZE).to_mask(SIZE) for pair in pairs]
        assert np.array_equal(region.to_mask(SIZE), single[0] | single[1])
    assert Region.polygon(pairs[:1]).parts == () == Region.polygon(pairs[0]).parts


def test_parts_against_pycocotools() -> None:
    """Its outline takes a pixel more here and there; ours is of pixel centres."""
    counts = "o18<4L0000001O0001O000000000001OM3JX3;cLO1N2N2O1001O1O1O1O2N1i1"
    theirs = parse_run_lengths({"size": [20, 40], "counts": counts}).decode()
    mine = Region.polygon(parts()).resolve(SIZE).to_mask(SIZE)
    assert (mine & theirs).sum() / (mine | theirs).sum() > 0.93


def test_parts_that_overlap_are_a_union_not_a_hole() -> None:
    both = Region.polygon([[2, 2, 20, 2, 20, 15, 2, 15], [10, 5, 30, 5, 30, 18, 10, 18]]).resolve(SIZE)
    assert both.to_mask(SIZE).sum() == 394  # as pycocotools counts


def test_a_part_outside_the_image_is_left_out() -> None:
    region = Region.polygon([[2, 2, 20, 2, 20, 15], [50, 5, 60, 5, 60, 18]]).resolve(SIZE)
    assert region.bounds(SIZE) == (2, 2, 20, 15)
    with pytest.raises(RegionError, match="outside"):
        Region.polygon([[42, 2, 60, 2, 60, 15], [50, 5, 60, 5, 60, 18]]).resolve(SIZE)


def test_parts_in_a_record(tmp_path: Path) -> None:
    Image.new("RGB", SIZE).save(tmp_path / "a.png")
    fractions = [[value / SIZE[number % 2] for number, value in enumerate(part)] for part in parts()]
    forms = [{"polygon": parts()}, {"polygon": fractions, "normalized": True}]
    path = write(tmp_path, "\n".join(json.dumps(record(regions=[form])) for form in forms), "t.jsonl")
    assert validate(path, tmp_path, check_images=True) == []
    for one in load_records(path):
        (region,) = one.resolve(SIZE)
        assert region.parts == (4, 5)
        assert region.bounds(SIZE) == pytest.approx((2.5, 2.0, 36.5, 18.0))


# Fractions for pixels


FRACTIONS = [
    Region.box(0.2, 0.3, 0.7, 0.9), Region.box(0.2, 0.3, 1.0004, 0.9), Region.box(-0.0004, 0, 0.5, 1),
    Region.point(0.4, 0.6), Region.polygon([(0.1, 0.1), (0.9, 0.1), (0.5, 1.002)]), Region.scribble([(0, 0), (0.5, 1)]),
]  # fmt: skip


@pytest.mark.parametrize("region", FRACTIONS, ids=str)
def test_fractions_given_as_pixels_are_refused(region: Region) -> None:
    with pytest.raises(RegionError, match=r"query 3: .* lies in the top-left pixel; for fractions 0..1 say normalized"):
        region.resolve((640, 480), "query 3")


def test_fractions_from_the_command_line_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pvit_ext import cli

    Image.new("RGB", SIZE).save(tmp_path / "a.png")
    command = ["ask", "--image", str(tmp_path / "a.png"), "--model", str(tmp_path), "What is <region>?"]
    assert cli.main([*command, "--box", "0.2", "0.3", "1.0004", "0.9"]) == 2
    assert "--normalized on the command line" in capsys.readouterr().err


@pytest.mark.parametrize("region", [Region.box(0, 0, 2, 1), Region.box(0.5, 0.5, 1.5, 2), Region.box(-3.5, 0.5, 1, 1)])
def test_small_pixels_stay_pixels(region: Region) -> None:
    assert isinstance(region.resolve((640, 480)), ResolvedRegion)


@pytest.mark.parametrize("values", [(0, 0, 1, 1), (0.5, 0.5, 1.02, 0.9), (-0.03, 0.2, 0.7, 1.0)])
def test_all_of_an_image_and_overshooting_fractions_are_no_pixels(values: tuple[float, ...]) -> None:
    """As pixels each would be answered about the top-left pixel, without a word."""
    with pytest.raises(RegionError, match=r"lies in the top-left pixel; for fractions 0\.\.1 say normalized=True"):
        Region.box(*values).resolve((640, 480))
    assert Region.box(*values, normalized=True).resolve((640, 480)).bounds((640, 480))[2] > 400


def test_all_of_a_small_image_is_a_pixel_of_it() -> None:
    assert Region.box(0, 0, 1, 1).resolve((8, 8)).bounds((8, 8)) == (0, 0, 1, 1)


def test_a_resolved_region_in_the_first_pixel_resolves_again() -> None:
    first = Region.box(0, 0, 0.02, 0.02, normalized=True).resolve(SIZE)
    assert first.points == ((0, 0), (0.8, 0.4))
    assert first.resolve(SIZE).points == first.points


def test_pixels_given_as_fractions_are_refused() -> None:
    """Clipped, the box would be the whole image."""
    with pytest.raises(RegionError, match="for pixels leave normalized out"):
        Region.box(0, 0, 30, 15, normalized=True).resolve(SIZE)
