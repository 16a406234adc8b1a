"""Names of images by their content: two sources of one name give the same upright pixels."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from PIL import Image

from pvit_ext.regions.image import ImageError, load_image
from pvit_ext.regions.image_source import KnownImage, is_url


def name_of_pixels(image: Image.Image) -> str:
    """The name of an upright RGB image."""
    return f"{image.mode} {image.width}x{image.height} {hashlib.sha256(image.tobytes()).hexdigest()}"


def name_and_file(source: Any) -> tuple[str, Any]:
    """An image's name, and the source to decode it from: of a path the bytes that the name was made of.

    Args:
        source: what :func:`~pvit_ext.regions.image.load_image` takes, but no stream.

    Raises:
        OSError: if a file cannot be read.
        ImageError: if it is not a readable image; only for sources that are no files.
    """
    if isinstance(source, (str, os.PathLike)) and not is_url(source):
        source = Path(source).read_bytes()
    if isinstance(source, KnownImage):
        return f"file {source.digest}", source
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"file {hashlib.sha256(source).hexdigest()}", source
    image = load_image(source)
    return name_of_pixels(image), image


def decode(file: Any, source: Any) -> Image.Image:
    """The upright RGB image of a file's content; an error names the source.

    Raises:
        ImageError: if it is not a readable image.
    """
    if isinstance(file, Image.Image):
        return file
    try:
        return load_image(file)
    except ImageError as error:
        raise ImageError.of(source, error.reason) from error
