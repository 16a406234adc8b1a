"""Decoding images: upright RGB pixels, sizes from headers, and one error that names a damaged file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pvit_ext.regions.image_source import THE_IMAGE, KnownImage, as_pillow, image_name, is_url
from pvit_ext.regions.region import RegionError, Size

_EXIF_ORIENTATION = 0x0112
MAX_SIDE, MAX_ASPECT = 30_000, 200
"""A 60000x1 file of a few bytes takes 10 GB padded to a square, 20 GB with its shorter side at 336."""


class ImageError(ValueError):
    """An image that cannot be read.

    Attributes:
        name: its file, or "the image".
        reason: what is wrong with it.
    """

    name: str = THE_IMAGE
    reason: str = ""

    @classmethod
    def of(cls, source: Any, reason: str) -> ImageError:
        """The error of an image source; data workers hand errors on as one text, so there is no constructor."""
        error = cls(f"cannot read {image_name(source)}: {reason}")
        error.name, error.reason = image_name(source), reason
        return error


@contextmanager
def reading(name: str, what: str = "image") -> Iterator[None]:
    """Say whose image cannot be read: errors of a file inside the block become a RegionError that names the sample."""
    try:
        yield
    except RegionError:
        raise
    except ImageError as error:
        file = "" if error.name in (THE_IMAGE, *what.split(" ", 1)) else f"{error.name}: "
        raise RegionError(f"{name}: cannot read its {what}: {file}{error.reason}") from error
    except (ValueError, OSError) as error:
        raise RegionError(f"{name}: cannot read its {what}: {error}") from error


def load_image(source: Any) -> Image.Image:
    """Open an image as RGB with its EXIF orientation applied; regions refer to the result.

    It takes what :func:`~pvit_ext.regions.image_source.as_pillow` takes, and gives the first frame of an animation and
    the upper eight of 16 bits. Transparency is dropped, as in LLaVA.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageError: if it is not a readable image; names the file.
    """
    with open_image(source) as image:
        return _eight_bits(_upright(image), image.format).convert("RGB")


def image_size(source: Any) -> Size:
    """(width, height) of what :func:`load_image` gives, read from the file's header where that is enough.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageError: if it is not an image; names the file.
    """
    if isinstance(source, KnownImage):
        return source.size
    with open_image(source) as image:
        if image.format == "TIFF":
            return _upright(image).size
        width, height = image.size
        return (height, width) if image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8) else (width, height)


@contextmanager
def open_image(source: Any) -> Iterator[Image.Image]:
    """Open an image with Pillow; whatever its decoders raise for a damaged file becomes one error that names it.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageError: if it cannot be read, or has a shape that nothing can resize.
    """
    try:
        opened = as_pillow(source)
        with nullcontext(opened) if isinstance(opened, Image.Image) else Image.open(opened) as image:
            _check_size(image.size)
            yield image
    except FileNotFoundError as error:
        if is_url(source):
            raise ImageError.of(source, "it is an address; download it and give the file") from error
        raise
    except (ValueError, IsADirectoryError, PermissionError) as error:
        raise ImageError.of(source, str(error)) from error
    except Exception as error:  # fuzzed files raise RuntimeError (AVIF), MemoryError (JPEG 2000), struct.error and more
        raise ImageError.of(source, f"{_reason(error)}; is the file a complete image?") from error


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its text has the address of an object
        return "it is no kind of image that Pillow knows"
    return str(error) or type(error).__name__


def _check_size(size: Size) -> None:
    if 0 in size:
        raise ValueError("it has no pixels")
    if max(size) > min(MAX_SIDE, MAX_ASPECT * min(size)):
        raise ValueError(
            f"{size[0]}x{size[1]} pixels; padded to a square or resized by its shorter side it may not fit in memory "
            f"(at most {MAX_SIDE} a side, and {MAX_ASPECT} times the other)"
        )


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # turns a TIFF upright; its header's size before that depends on Pillow's version
    return image if image.format == "TIFF" else ImageOps.exif_transpose(image)


def _eight_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    """Pillow's own conversion of more than eight bits clips: all but the darkest 1/256 would be white."""
    if image.mode in ("I", "F") and (image.mode, file_format) != ("I", "PNG"):  # Pillow 10: 16-bit PNG
        raise ValueError(f"its pixels are 32-bit (mode {image.mode}) with no stated range; convert it to 8 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image
