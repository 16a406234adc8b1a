"""What a Query takes as image, text, regions and history, and what it says of anything else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pvit_ext import Query, Region, RegionError
from pvit_ext.regions.image import ImageError, load_image

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 31, 3), np.uint8)
PHOTO = Image.fromarray(PIXELS)


def encoded() -> bytes:
    buffer = io.BytesIO()
    PHOTO.save(buffer, "PNG")
    return buffer.getvalue()


class Pipe(io.RawIOBase):
    """A binary stream that cannot go back."""

    def __init__(self) -> None:
        self.rest = encoded()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part, self.rest = self.rest[: len(buffer)], self.rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


@pytest.mark.parametrize(
    "image", [PHOTO, PIXELS, encoded(), bytearray(encoded()), io.BytesIO(encoded()), Pipe(), [PIXELS], (encoded(),)]
)
def test_images(image: Any) -> None:
    query = Query(image, "Red?")
    assert query.image_sizes() == [(31, 24)]
    for _ in range(2):
        (loaded,) = query.load_images()
        assert np.array_equal(np.asarray(loaded), PIXELS)


def test_an_open_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    with open(tmp_path / "a.png", "rb") as file:
        query = Query(file, "Red?")
    assert query.image_sizes() == [(31, 24)]


def test_grey_and_transparent_arrays() -> None:
    assert load_image(PIXELS[..., 0]).getpixel((3, 4)) == (PIXELS[4, 3, 0],) * 3
    assert np.array_equal(np.asarray(load_image(np.dstack([PIXELS, PIXELS[..., 0]]))), PIXELS)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (PIXELS / 255, r"ndarray of shape \(24, 31, 3\) and dtype float64; an array is uint8"),
        (PIXELS.transpose(2, 0, 1), r"ndarray of shape \(3, 24, 31\) and dtype uint8; an array is uint8"),
        (PIXELS[None], r"shape \(1, 24, 31, 3\)"),
        (io.StringIO("text"), "StringIO .*opened in 'rb'"),
        (5, "int 5; give a path, a PIL image"),
        (b"no image" * 1_000_000, "cannot read the image: it is no kind of image that Pillow knows"),
        ("no image" * 1_000_000, r"the image: it is str .*of 8000000 characters, no path; decode base64"),
    ],
)
def test_other_images_are_named_in_one_short_line(image: Any, message: str) -> None:
    with pytest.raises((ImageError, OSError), match=message) as raised:
        Query(image, "Red?").load_images()
    assert len(str(raised.value)) < 400
    assert "\n" not in str(raised.value)


BOX = Region.box(1, 2, 3, 4)


@pytest.mark.parametrize(
    "regions",
    [
        BOX,
        [BOX],
        (BOX,),
        [[1, 2, 3, 4]],
        [(1.0, 2, np.float32(3), 4)],
        [1, 2, 3, 4],
        np.array([1, 2, 3, 4]),
        np.array([[1, 2, 3, 4]]),
        [np.array([1, 2, 3, 4])],
        torch.tensor([[1, 2, 3, 4]]),
        [torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)],
        {"box": (1, 2, 3, 4)},
        [{"box": np.array([1, 2, 3, 4])}],
        {"box": torch.tensor([1.0, 2.0, 3.0, 4.0])},
    ],
)
def test_one_box_in_every_form(regions: Any) -> None:
    (region,) = Query(PHOTO, "<region>", regions).all_regions("query 0")
    assert (region.kind, region.points, region.normalized) == ("box", BOX.points, False)


def test_several_none_and_masks() -> None:
    assert Query(PHOTO, "Red?", None).all_regions("q") == Query(PHOTO, "Red?").all_regions("q") == []
    regions = Query(PHOTO, "", [BOX, [5, 6, 7, 8], np.ones((24, 31), bool)]).all_regions("q")
    assert [region.kind for region in regions] == ["box", "box", "mask"]
    assert regions[0] is BOX
    assert [region.kind for region in Query(PHOTO, "", np.ones((24, 31), bool)).all_regions("q")] == ["mask"]
    lengths = {"size": [24, 31], "counts": [4, 3, 24 * 31 - 7]}
    assert [region.kind for region in Query(PHOTO, "", [lengths]).all_regions("q")] == ["mask"]
    assert len(Query(PHOTO, "", np.arange(12).reshape(3, 4)).all_regions("q")) == 3


def test_regions_as_data_records_have_them() -> None:
    lengths = {"size": [24, 31], "counts": [4, 3, 24 * 31 - 7]}
    written = [
        [1, 2, 9, 8],
        {"polygon": [[1, 2], [9, 2], [9, 8]], "image": 1},
        {"point": [0.5, 0.5], "normalized": True, "box": None},
        {"mask": lengths},
        {"mask": lengths, "image": 1},
        {"polygon": np.array([[1, 2], [9, 2], [9, 8]])},
    ]
    found = Query(PHOTO, "", written).all_regions("q")
    said = [(region.kind, region.image, region.normalized) for region in found]
    assert said == [
        ("box", 0, False),
        ("polygon", 1, False),
        ("point", 0, True),
        ("mask", 0, False),
        ("mask", 1, False),
        ("polygon", 0, False),
    ]
    assert np.array_equal(found[3].to_mask((31, 24)), found[4].to_mask((31, 24)))
    (alone,) = Query(PHOTO, "", written[1]).all_regions("q")
    assert alone.points == found[1].points


def test_masks_as_segmenters_return_them() -> None:
    """SAM gives (N, H, W), as arrays or tensors; others an image of one channel."""
    masks = np.zeros((2, 24, 31), bool)
    masks[0, :3], masks[1, 5:] = True, True
    for given in (masks, torch.from_numpy(masks), list(masks), [torch.from_numpy(one) for one in masks]):
        found = [region.to_mask((31, 24)) for region in Query(PHOTO, "", given).all_regions("q")]
        assert np.array_equal(found, masks)
    for one in (masks[0], torch.from_numpy(masks[0]), Image.fromarray(masks[0]), masks[:1]):
        (region,) = Query(PHOTO, "", one).all_regions("q")
        assert np.array_equal(region.to_mask((31, 24)), masks[0])
    with pytest.raises(RegionError, match=r"^query 7, region 0: it has 3 channels \(RGB\)"):
        Query(PHOTO, "", [Image.fromarray(PIXELS)]).all_regions("query 7")


@pytest.mark.parametrize("address", ["https://example.org/a.png", "data:image/png;base64,AAAA"])
def test_an_address_is_no_file(address: str) -> None:
    with pytest.raises(ImageError, match=r"it is an address; download it and give the file$"):
        Query(address, "Red?").load_images()


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ([BOX, [1, 2, 3]], r"^query 7, region 1 is list \[1, 2, 3\]; regions are Region.box"),
        ([[True, 2, 3, 4]], r"^query 7, region 0 is list \[True"),
        (["1,2,3,4"], r"^query 7, region 0 is str '1,2,3,4'"),
        ("1,2,3,4", r"^query 7: its regions are str '1,2,3,4'"),
        ([{"bbox": [1, 2, 3, 4]}], r'^query 7, region 0 is dict .*one of a data record, {"polygon": '),
        ([{"box": [1, 2, 3]}], r"^query 7, region 0: a box is a list of 4 numbers"),
        ([{"box": BOX.points, "mask": {}}], r"^query 7, region 0 is .* an object with one of box, point"),
        ([{"mask": "a.png"}], r"^query 7, region 0: its mask is a file.*Image\.open\('a\.png'\)"),
        ([{"mask": PIXELS[..., 0] > 9}], r"^query 7, region 0: its mask is ndarray of shape .*: give it alone"),
        ([PIXELS], r"^query 7, region 0 is ndarray of shape \(24, 31, 3\)"),
        ([PIXELS[..., 0]], r"^query 7, region 0: a mask has 0 and one other value"),
        (np.full((24, 31), 0.3), r"^query 7, region 0: a mask of floats holds 0 and 1"),
        (np.ones((9, 6)), r"^query 7, region 0 is ndarray of shape \(6,\)"),
        ([list(range(1_000_000))], r"^query 7, region 0 is list \[0, 1"),
        (5, r"^query 7: its regions are int 5"),
    ],
)
def test_other_regions_are_named_in_one_short_line(regions: Any, message: str) -> None:
    with pytest.raises(RegionError, match=message) as raised:
        Query(PHOTO, "<region>", regions).all_regions("query 7")
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("text", "history", "message"),
    [
        (None, (), r"^query 7: its text is NoneType None; give a string"),
        (b"Red?", (), r"^query 7: its text is bytes"),
        ("Red?", ["Blue?"], r"^query 7: its history holds str 'Blue\?'; give \(question, answer\)"),
        ("Red?", [("Blue?", None)], r"^query 7: its history holds tuple"),
    ],
)
def test_other_texts(text: Any, history: Any, message: str) -> None:
    with pytest.raises(RegionError, match=message):
        Query(PHOTO, text, (), history).turns("query 7")


def test_no_history() -> None:
    assert Query(PHOTO, "Red?", None, None).turns("q") == (["Red?"], [None])  # type: ignore[arg-type]
