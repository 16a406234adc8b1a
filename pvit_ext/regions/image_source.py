"""What a user may give as an image, turned into something Pillow opens."""

from __future__ import annotations

import io
import os
import reprlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

ACCEPTED = "a path, a PIL image, a uint8 array (height, width, 3), the bytes of a file or a file opened in 'rb'"

MAX_PATH = 4096
"""Characters of a path on Linux."""
THE_IMAGE = "the image"
"""The name, in errors, of an image without one."""


@dataclass(frozen=True, eq=False)
class KnownImage:
    """The file of an image that was decoded before: its name is that of the file, and nobody decodes it for its size.

    Args:
        data: of the file.
        digest: SHA-256 of these, in hexadecimal digits.
        size: (width, height), upright.
        image: what was decoded, upright RGB; None where it was let go.
    """

    data: bytes
    digest: str
    size: tuple[int, int]
    image: Image.Image | None = None


def as_pillow(source: Any) -> Any:
    """A PIL image, or what ``PIL.Image.open`` takes.

    Args:
        source: of the kinds in :data:`ACCEPTED`; an array may also be (height, width) or (height, width, 4).

    Raises:
        ValueError: for anything else.
    """
    if isinstance(source, str) and len(source) > MAX_PATH:
        raise ValueError(f"it is {describe(source)} of {len(source)} characters, no path; decode base64 to bytes")
    if isinstance(source, (Image.Image, str, os.PathLike)):
        return source
    if isinstance(source, KnownImage):
        return io.BytesIO(source.data) if source.image is None else source.image
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    if isinstance(source, np.ndarray):
        return _of_array(source)
    if hasattr(source, "read") and not isinstance(source, io.TextIOBase):
        return source
    raise ValueError(f"it is {describe(source)}; give {ACCEPTED}")


def _of_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ValueError(f"it is {describe(array)}; an array is uint8 (height, width, 3), RGB")
    return Image.fromarray(array)


def describe(value: Any) -> str:
    """A value in a few words, for an error: an array by its shape, anything else by the start of its text."""
    if hasattr(value, "shape"):
        return f"{type(value).__name__} of shape {tuple(value.shape)} and dtype {getattr(value, 'dtype', None)}"
    return f"{type(value).__name__} {reprlib.repr(value)}"


def image_name(source: Any) -> str:
    """The name of an image in errors."""
    if isinstance(source, (str, os.PathLike)):
        return str(source) if len(str(source)) <= MAX_PATH else THE_IMAGE
    return THE_IMAGE


def is_url(source: Any) -> bool:
    """Whether it is the address of an image, not a file: ``https://...`` or ``data:...``."""
    return isinstance(source, str) and source.startswith(("http://", "https://", "s3://", "gs://", "data:"))
