"""Images that cameras, scrapers and attackers leave behind: each has a stated rule, or an error that names it."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from pvit_ext.data.check import validate
from pvit_ext.regions.image import MAX_ASPECT, MAX_SIDE, ImageError, image_size, load_image
from tests.data.records import record, write

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 31, 3), np.uint8)
PHOTO = Image.fromarray(PIXELS)


def encoded(kind: str, image: Image.Image = PHOTO, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int = 6) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def grey16() -> np.ndarray:
    return np.linspace(0, 65535, 24 * 31).astype(np.uint16).reshape(24, 31)


def png_header(width: int, height: int) -> bytes:
    """All that Pillow reads before it makes room for the pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\4IDAT"
    )


def palette() -> Image.Image:
    image = Image.fromarray(np.arange(24 * 31).reshape(24, 31).astype(np.uint8) % 3, "L").convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    return image


# What is read


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80\xff"])
def test_a_palette_gives_its_colours_also_where_it_is_transparent(transparency: Any, tmp_path: Path) -> None:
    options = {} if transparency is None else {"transparency": transparency}
    palette().save(tmp_path / "p.png", **options)
    assert np.array_equal(np.asarray(load_image(tmp_path / "p.png")), np.asarray(palette().convert("RGB")))


def test_transparency_is_dropped_as_llava_does(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([PIXELS, np.zeros((24, 31), np.uint8)])).save(tmp_path / "clear.png")
    assert np.array_equal(np.asarray(load_image(tmp_path / "clear.png")), PIXELS)


def test_cmyk_is_converted(tmp_path: Path) -> None:
    red = Image.new("CMYK", (31, 24), (0, 255, 255, 0))
    red.save(tmp_path / "red.tiff")
    assert load_image(tmp_path / "red.tiff").getpixel((3, 3)) == (255, 0, 0)
    (tmp_path / "red.jpg").write_bytes(encoded("JPEG", red, quality=95))
    assert np.abs(np.asarray(load_image(tmp_path / "red.jpg"), int) - (255, 0, 0)).max() < 12


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_keep_the_upper_eight(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"grey.{suffix}"
    Image.fromarray(grey16()).save(path)
    assert np.array_equal(np.asarray(load_image(path)), np.dstack([grey16() >> 8] * 3))


def test_sixteen_bits_in_the_other_byte_order() -> None:
    image = Image.frombytes("I;16B", (31, 24), grey16().astype(">u2").tobytes())
    assert np.array_equal(np.asarray(load_image(image)), np.dstack([grey16() >> 8] * 3))


@pytest.mark.parametrize("values", [np.int32, np.float32])
def test_thirty_two_bits_without_a_range_are_refused(values: Any, tmp_path: Path) -> None:
    Image.fromarray(grey16().astype(values)).save(tmp_path / "deep.tiff")
    with pytest.raises(ImageError, match=r"deep\.tiff.*32-bit.*convert it to 8 bits"):
        load_image(tmp_path / "deep.tiff")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation(kind: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    (tmp_path / "moving.img").write_bytes(encoded(kind, frames[0], save_all=True, append_images=frames[1:]))
    red, green, _ = load_image(tmp_path / "moving.img").getpixel((5, 5))
    assert red > 200 > 50 > green


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_header_tells_the_size_of_the_upright_image(kind: str, orientation: int, tmp_path: Path) -> None:
    (tmp_path / "photo.img").write_bytes(encoded(kind, exif=turned(orientation)))
    upright = (31, 24) if orientation in (1, 3) else (24, 31)
    assert image_size(tmp_path / "photo.img") == load_image(tmp_path / "photo.img").size == upright


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (3, 3)])
def test_tiny_images_are_images(size: tuple[int, int]) -> None:
    assert load_image(Image.new("RGB", size)).size == size


# What is refused


@pytest.mark.parametrize("size", [(1, MAX_ASPECT + 1), (MAX_ASPECT + 1, 1), (MAX_SIDE + 1, 1000), (1000, MAX_SIDE + 1)])
def test_shapes_that_grow_when_padded_or_resized(size: tuple[int, int], tmp_path: Path) -> None:
    """The header is enough: a file of a few bytes may claim gigabytes."""
    (tmp_path / "long.png").write_bytes(png_header(*size))
    for read in (load_image, image_size):
        with pytest.raises(ImageError, match=rf"long\.png: {size[0]}x{size[1]} pixels.*at most {MAX_SIDE}"):
            read(tmp_path / "long.png")


def test_a_decompression_bomb(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(20_000, 20_000))
    for read in (load_image, image_size):
        with pytest.raises(ImageError, match=r"bomb\.png.*decompression bomb"):
            read(tmp_path / "bomb.png")


NOT_IMAGES = {
    "zero bytes": b"", "text": b"this is no image\n" * 9, "json": b'[{"id": 1}]', "html": b"<!DOCTYPE html>404",
    "truncated jpeg": encoded("JPEG")[:-200], "truncated png": encoded("PNG")[:-300],
    "truncated gif": encoded("GIF")[:300],
    "zip": b"PK\x03\x04" + bytes(60), "a header alone": b"\x89PNG\r\n\x1a\n", "bmp of -1": b"BM" + b"\xff" * 60,
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_no_image_is_named_in_the_record(name: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(NOT_IMAGES[name])
    path = write(tmp_path, [record(image="photo.jpg")])
    with pytest.raises(ImageError, match=r"cannot read .*photo\.jpg"):
        load_image(tmp_path / "photo.jpg")
    problems = validate(path, tmp_path, check_images=True)
    assert len(problems) == (name != "truncated jpeg")  # its header is whole
    assert all(found.startswith("train.json line 2 (id '0'): cannot read ") for found in problems)


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match=r"folder\.png"):
        load_image(tmp_path / "folder.png")
    assert (
        "'folder.png' is not in the image folder"
        in validate(write(tmp_path, [record(image="folder.png")]), tmp_path)[0]
    )


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_an_error_that_pillow_does_not_document(tmp_path: Path) -> None:
    """libavif's RuntimeError came through before."""
    damaged = bytearray(encoded("AVIF"))
    damaged[81] = 0
    (tmp_path / "photo.avif").write_bytes(damaged)
    with pytest.raises(ImageError, match=r"photo\.avif"):
        load_image(tmp_path / "photo.avif")


POOL = {
    "png": encoded("PNG", exif=turned()), "palette": encoded("PNG", palette(), transparency=1),
    "grey16": encoded("PNG", Image.fromarray(grey16())), "jpeg": encoded("JPEG", exif=turned()),
    "cmyk": encoded("JPEG", PHOTO.convert("CMYK")),
    "gif": encoded("GIF", save_all=True, append_images=[PHOTO.rotate(90)]),
    "tiff": encoded("TIFF", exif=turned()), "webp": encoded("WEBP", exif=turned()), "bmp": encoded("BMP"),
    "tga": encoded("TGA"), "ico": encoded("ICO"), "pcx": encoded("PCX"), "ppm": encoded("PPM"), "dds": encoded("DDS"),
}  # fmt: skip


@given(
    st.sampled_from(sorted(POOL)),
    st.lists(st.tuples(st.integers(0, 399), st.sampled_from([0, 1, 2, 127, 128, 255])), max_size=6),
    st.none() | st.integers(0, 3000),
)
@settings(max_examples=120, deadline=None, derandomize=True)
@pytest.mark.filterwarnings("ignore")
def test_any_bytes_are_an_image_or_an_error_that_names_the_file(
    tmp_path_factory: Any, name: str, changes: list[tuple[int, int]], cut: int | None
) -> None:
    content = bytearray(POOL[name])
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path_factory.mktemp("fuzz") / "photo.img"
    path.write_bytes(content[:cut])
    try:
        image = load_image(path)
    except ImageError as error:
        named = str(path) in str(error)
    else:
        named = image.mode == "RGB" and image_size(path) == image.size
    assert named
