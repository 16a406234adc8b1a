"""Images that a source holds itself, written into the image folder, where records name them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
from pathlib import Path

from PIL import Image

from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.image_folder import ImageFolder
from pvit_ext.data.convert.notes import BadItem
from pvit_ext.files import atomic_write

_PREFIX = "data:"


def is_embedded(image: object) -> bool:
    """Whether an image is its bytes, or a ``data:`` address with base64, and no path."""
    return isinstance(image, bytes) or (isinstance(image, str) and image.startswith(_PREFIX))


def check_folder(name: str) -> str:
    """The folder below the image folder that images are written to; empty for none.

    Raises:
        SourceError: for one that leads out of it.
    """
    if name and (Path(name).is_absolute() or ".." in Path(name).parts):
        raise SourceError(f"unpack={name} must stay in the image folder: no absolute path, no '..'")
    return name


def unpack(image: str | bytes, image_folder: ImageFolder, folder: str) -> str:
    """Write an image under a name made from its bytes, if it is not there yet.

    Args:
        image: its bytes, or ``data:base64,...`` with or without a media type.
        image_folder: the image folder.
        folder: below it.

    Returns:
        its name in the image folder.

    Raises:
        BadItem: for what is no image.
    """
    try:
        content = image if isinstance(image, bytes) else base64.b64decode(image.partition(",")[2], validate=True)
        with Image.open(io.BytesIO(content)) as opened:
            suffix = {"JPEG": "jpg"}.get(opened.format or "", (opened.format or "img").lower())
    except (binascii.Error, OSError, ValueError) as error:
        raise BadItem(f"its embedded image is none: {error}") from error
    name = f"{folder}/{hashlib.sha256(content).hexdigest()[:32]}.{suffix}"
    path = Path(image_folder.folder, name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    return name
