"""Pictures that were opened in the demo: kept in a folder of their own for the page that opened them, shown upright."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

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
        key: known to the page that opened it alone, which names the picture by it.
        name: its file was called, without folders.
        file: the bytes as they were given.
        size: (width, height), upright.
        digest: of its bytes.
        session: the page that opened it.
    """

    key: str
    name: str
    file: Path
    size: Size
    digest: str
    session: str


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

    def open(self, content: bytes, name: str, session: str) -> tuple[Picture, Image.Image]:
        """Keep a picture.

        Args:
            content: of its file.
            name: what the user calls it.
            session: the page that opens it.

        Returns:
            the picture and its pixels, upright RGB.

        Raises:
            ImageError: if it is no picture; names it as the user does.
        """
        try:
            pixels = load_image(content)
        except ImageError as error:
            raise ImageError(f"{name} cannot be opened: {error.reason}") from error
        key, digest = secrets.token_hex(16), hashlib.sha256(content).hexdigest()[:16]
        file = self._folder / (key + _suffix(name))
        picture = Picture(key, Path(name).name, file, pixels.size, digest, session)
        file.write_bytes(content)
        with self._lock:
            self._known[key] = picture
            while len(self._known) > self._most:
                self._known.popitem(last=False)[1].file.unlink(missing_ok=True)
        return picture, pixels

    def close(self, session: str) -> None:
        """Forget what a page opened.

        Args:
            session: the page.
        """
        with self._lock:
            for picture in [one for one in self._known.values() if one.session == session]:
                del self._known[picture.key]
                picture.file.unlink(missing_ok=True)

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


def _suffix(name: str) -> str:
    found = re.search(r"\.[A-Za-z0-9]{1,8}$", name)
    return found.group().lower() if found else ""


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
