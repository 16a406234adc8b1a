"""Pictures that were opened in the demo: kept by content in a folder of their own, shown upright."""

from __future__ import annotations

import base64
import io
import shutil
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pvit_ext.files import sha256_file
from pvit_ext.regions.extent import Size, stroke_radius
from pvit_ext.regions.image import ImageError, load_image

MOST_PICTURES = 64
"""Pictures that are kept; opening one more forgets the one that was not used for longest."""
LONGEST_SHOWN = 4096
"""Pixels of the longer side that a browser is sent; beyond it canvases fail on phones."""


@dataclass(frozen=True)
class Picture:
    """One picture.

    Args:
        key: its content's hash.
        name: its file was called, without folders.
        file: the bytes as they were given.
        size: (width, height), upright.
    """

    key: str
    name: str
    file: Path
    size: Size


class Pictures:
    """The pictures of a running demo; threads may share it.

    Args:
        folder: of the files; it belongs to the demo alone.
        most: pictures that are kept.
    """

    def __init__(self, folder: Path, most: int = MOST_PICTURES) -> None:
        self._folder, self._most = folder, most
        self._known: OrderedDict[str, Picture] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, file: Path, name: str) -> tuple[Picture, Image.Image]:
        """Keep a copy of a picture's file.

        Args:
            file: of the picture.
            name: what the user calls it.

        Returns:
            the picture and its pixels, upright RGB.

        Raises:
            ImageError: if it is no picture; names it as the user does.
        """
        try:
            pixels = load_image(file)
        except ImageError as error:
            raise ImageError(f"{name} cannot be opened: {error.reason}") from error
        key = sha256_file(file)[:16]
        picture = Picture(key, Path(name).name, self._folder / (key + file.suffix.lower()), pixels.size)
        with self._lock:
            if not picture.file.exists():
                shutil.copyfile(file, picture.file)
            self._known[key] = picture
            self._known.move_to_end(key)
            while len(self._known) > self._most:
                self._known.popitem(last=False)[1].file.unlink(missing_ok=True)
        return picture, pixels

    def get(self, key: object) -> Picture:
        """A picture by its key.

        Raises:
            ValueError: for one that was never opened, or was forgotten since.
        """
        with self._lock:
            if not isinstance(key, str) or key not in self._known:
                raise ValueError("the demo does not have this picture any more; open it again")
            self._known.move_to_end(key)
            return self._known[key]


def describe_picture(picture: Picture, pixels: Image.Image) -> dict[str, object]:
    """What the page needs to know of a picture, its pixels as a data URL among it.

    Browsers and Pillow do not agree about every file's orientation and format, so the page is sent upright pixels.

    Args:
        picture: opened.
        pixels: upright RGB, of its full size.
    """
    shown = pixels.copy()
    shown.thumbnail((LONGEST_SHOWN, LONGEST_SHOWN))
    return {
        "key": picture.key,
        "name": picture.name,
        "width": picture.size[0],
        "height": picture.size[1],
        "radius": stroke_radius(picture.size),
        "url": data_url(shown, "JPEG" if max(shown.size) > 1024 else "PNG"),
    }


def data_url(image: Image.Image, file_format: str) -> str:
    """An image as a data URL.

    Args:
        image: of any mode that the format has.
        file_format: ``PNG``, or ``JPEG`` for large ones.
    """
    stream = io.BytesIO()
    image.save(stream, file_format, **({"quality": 92, "subsampling": 0} if file_format == "JPEG" else {}))
    return f"data:image/{file_format.lower()};base64," + base64.b64encode(stream.getvalue()).decode()
