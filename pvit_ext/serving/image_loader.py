"""Images and masks of a request: ``data:`` URLs, and files and addresses where the server was told to take them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import stat
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pvit_ext.data.image_files import check_file, find_file
from pvit_ext.regions.image import ImageError, load_image, open_image
from pvit_ext.regions.image_source import KnownImage
from pvit_ext.regions.mask_values import mask_of_image, mask_of_values
from pvit_ext.regions.region import Size
from pvit_ext.serving.api_error import wrong
from pvit_ext.serving.fetch import fetch
from pvit_ext.serving.limits import Limits, Place, check_pixels
from pvit_ext.serving.uploads import FileId, Uploads

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "AVIF")
"""Other decoders of Pillow run programs (EPS) or are of no use here."""
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


@dataclass(frozen=True)
class LoadedImage:
    """An image of a request, which has been decoded without fault.

    Args:
        source: for a query; without its pixels where it was seen before, since its features may be kept.
        mask: bool (H, W), where its alpha channel says one.
    """

    source: KnownImage
    mask: NDArray[np.bool_] | None = None

    @property
    def size(self) -> Size:
        """(width, height), upright."""
        return self.source.size


class Seen:
    """Sizes of images that were seen, the last ones, by the digests of their files.

    Args:
        most: that are kept.
    """

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._sizes: OrderedDict[str, Size] = OrderedDict()

    def get(self, digest: str) -> Size | None:
        """The size of one; None for a new one."""
        return self._sizes.get(digest)

    def add(self, digest: str, size: Size) -> None:
        """Keep one, and drop the oldest beyond ``most``."""
        with self._lock:
            self._sizes[digest] = size
            if len(self._sizes) > self._most:
                self._sizes.popitem(last=False)


@dataclass(frozen=True)
class ImageLoader:
    """Reads the images and masks of requests.

    Args:
        limits: of one request.
        folder: in which names are looked up, None for no names.
        urls: whether addresses are fetched.
        opaque: files without a mask that were decoded without fault before.
        uploads: files that clients name by their id.
    """

    limits: Limits
    folder: Path | None = None
    urls: bool = False
    opaque: Seen = field(default_factory=lambda: Seen(4096))
    uploads: Uploads = field(default_factory=Uploads)

    def load(self, source: str | FileId, place: Place, param: str) -> LoadedImage:
        """An image.

        Args:
            source: a ``data:`` URL, an upload, a name in the folder, or an address.
            place: of the request, which holds its pixels.
            param: the field.

        Raises:
            ApiError: 400 naming the field.
        """
        data = self._checked(source, place, param)
        digest = hashlib.sha256(data).hexdigest()
        if (size := self.opaque.get(digest)) is not None:
            return LoadedImage(KnownImage(data, digest, size))
        try:
            opened = Image.open(io.BytesIO(data), formats=FORMATS)  # its header was read before
            has_alpha = opened.mode in _ALPHA or "transparency" in opened.info
            image = load_image(opened)
            alpha = upright_alpha(opened) if has_alpha else None
        except ImageError as error:
            raise wrong(param, f"the image cannot be read: {error.reason}") from error
        image.info = {}  # it is upright now, whatever its file said
        found = KnownImage(data, digest, image.size, image)
        if alpha is not None and int(alpha.min()) < 255:
            return LoadedImage(found, _alpha_mask(alpha, param))
        self.opaque.add(digest, image.size)
        return LoadedImage(found)

    def mask(self, source: str | FileId, place: Place, param: str) -> NDArray[np.bool_]:
        """A mask file, bool (H, W); see :meth:`load`."""
        data = self._checked(source, place, param)
        try:
            with open_image(data) as opened:
                return mask_of_image(opened)
        except ImageError as error:
            raise wrong(param, f"the mask cannot be read: {error.reason}") from error

    def check(self, data: bytes, param: str) -> None:
        """Refuse what is no image that one request may have, by its header.

        Args:
            data: of its file.
            param: the field, for messages.

        Raises:
            ApiError: 400 for a file of no known kind, or of too many pixels.
        """
        check_pixels(self.limits, _pixels(data, param), param)

    def _checked(self, source: str | FileId, place: Place, param: str) -> bytes:
        """A file whose pixels the place holds; nothing is decoded yet."""
        data = self._bytes(source, place, param)
        place.take(_pixels(data, param), param)
        return data

    def _bytes(self, source: str | FileId, place: Place, param: str) -> bytes:
        if isinstance(source, FileId):
            return self.uploads.get(source.id, param).data
        scheme = source[:16].lower()
        if scheme.startswith("data:"):
            return _of_data_url(source, param)
        if scheme.startswith(("http://", "https://")):
            if not self.urls:
                raise wrong(param, "addresses are not fetched here (--allow-url); send the image as a data: URL")
            with place.fetching(param):
                return fetch(source, self.limits.body, min(place.remaining(param), 30.0), param)
        if self.folder is None or "://" in source:
            taken = "a data: URL" + (", an address" if self.urls else "") + (", a name" if self.folder else "")
            raise wrong(param, f"{source[:60]!r} is not taken; give {taken}, such as data:image/png;base64,...")
        return read_inside(self.folder, source, self.limits.body, param)


def _pixels(data: bytes, param: str) -> int:
    """How many an image has, by its header alone: a PNG would be decoded for the way up."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS):
            pass
        with open_image(data) as image:
            return image.width * image.height
    except ImageError as error:
        raise wrong(param, f"the image cannot be read: {error.reason}") from error
    except Exception as error:  # as in open_image: fuzzed headers raise anything
        kinds = ", ".join(FORMATS)
        raise wrong(param, f"the {len(data)} bytes are no image of a known kind ({kinds})") from error


def upright_alpha(image: Image.Image) -> NDArray[np.uint8]:
    """The alpha channel of an open image as a viewer turns it, uint8 (H, W)."""
    image.load()
    turned = image if image.format == "TIFF" else ImageOps.exif_transpose(image)
    return np.asarray(turned.convert("RGBA"))[..., 3]


def _alpha_mask(alpha: NDArray[np.uint8], param: str) -> NDArray[np.bool_]:
    """Where an alpha channel of 0 and one other value is not 0, as Describe Anything's clients send masks."""
    if not alpha.any():
        raise wrong(param, "its alpha channel is 0 everywhere: as a mask it marks nothing; send the image without")
    if int(alpha[alpha > 0].min()) == int(alpha.max()) and not alpha.all():
        return mask_of_values(alpha)
    raise wrong(
        param,
        "its alpha channel has soft values; an alpha channel is taken for the mask of a region, 0 outside and one "
        "other value inside: threshold it, or send the image without one (RGB)",
    )


def _of_data_url(source: str, param: str) -> bytes:
    head, comma, rest = source.partition(",")
    if not comma or not head.lower().endswith(";base64") or not head.lower().startswith("data:image/"):
        raise wrong(param, f"{head[:60]!r} is no data: URL of an image, data:image/png;base64,...")
    try:
        return base64.b64decode(rest, validate=True)
    except (binascii.Error, ValueError) as error:
        raise wrong(param, f"its base64 is damaged: {error}") from error


def read_inside(folder: Path, name: str, most: int, param: str) -> bytes:
    """The bytes of a file in a folder; links that lead out of it are not followed.

    Args:
        folder: that may be read.
        name: relative to it.
        most: bytes.
        param: the field, for messages.

    Raises:
        ApiError: 400 naming the field.
    """
    missing = wrong(param, f"{name[:60]!r} is no file of the image folder")
    try:
        check_file(name, "the name", None)
    except ValueError as error:
        raise wrong(param, str(error)) from error
    root = folder.resolve()
    found = find_file(str(root), name)
    if found is None:
        raise missing
    try:
        path = Path(found).resolve(strict=True)
        if not path.is_relative_to(root):
            raise missing
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe would wait for its writer
    except OSError as error:
        raise missing from error
    with open(handle, "rb") as stream:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode) or not _opened(handle, path).is_relative_to(root):
            raise missing
        if state.st_size > most:
            raise wrong(param, f"the file has {state.st_size:,} bytes; at most {most:,} are read")
        return stream.read(most)


def _opened(handle: int, path: Path) -> Path:
    """What was really opened, where the system says so: a folder may become a link between check and opening."""
    link = Path(f"/proc/self/fd/{handle}")
    return Path(os.readlink(link)) if link.exists() else path
