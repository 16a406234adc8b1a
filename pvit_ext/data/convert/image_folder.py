"""The image folder: under which name an image lies there, and its size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from pvit_ext.data.convert.annotation import Size
from pvit_ext.data.convert.fields import short
from pvit_ext.data.convert.notes import BadItem, Notes, Reason, is_end
from pvit_ext.data.image_files import find_file
from pvit_ext.regions.image import ImageError, image_size

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".mpo", ".pfm", ".heic", ".dng"}
)
_SEGMENTS = ("SegmentationClass", "SegmentationObject")
"""Folders of Pascal VOC that hold masks under the names of the images."""
_KEPT = 10_000
"""Most sizes of images in memory."""


class ImageFolder:
    """Looks images up in the image folder; picklable.

    Args:
        folder: the image folder.
        opened: whether images are looked for and their headers read; else names and sizes of the source are taken.

    Raises:
        ValueError: for a folder that does not exist.
    """

    def __init__(self, folder: str | os.PathLike[str], opened: bool = True) -> None:
        self.folder, self.opened = str(folder), opened
        self._by_name: dict[str, list[str]] | None = None
        self._sizes: dict[str, Size] = {}
        if not os.path.isdir(self.folder):
            raise ValueError(f"--image-folder {self.folder} is no folder; name the one that the images lie in")

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_by_name": None, "_sizes": {}}

    def find(self, names: Sequence[str], searched: Sequence[str] | None = None) -> tuple[str, str] | None:
        """The name of an image relative to the folder, and the source's own; None if it is not there.

        The two differ where only the last part of the source's name was found.

        Args:
            names: under which it may lie, the likeliest first; one that is the end of a likelier one is that name, less
                exactly. If it lies under none of them, the only file anywhere in the folder is taken whose path ends in
                one of them, or else that has its base name.
            searched: those of which such a file may be taken, default all.
        """
        names = [name for name in map(_clean, names) if name]
        if not self.opened:
            return (names[0], names[0]) if names else None
        for name in names:
            if (path := find_file(self.folder, name)) is not None:
                found = os.path.relpath(path, self.folder).replace(os.sep, "/")
                full_name = _full_name(name, names)
                return found, found if full_name == name else full_name
        for name in names if searched is None else map(_clean, searched):
            same, full_name = self._files().get(PurePosixPath(name).name, []), _full_name(name, names)
            same = [one for one in same if is_end(full_name, one)] or same
            if len(same) == 1:
                return same[0], full_name
        return None

    def inside(self, path: Path) -> list[str]:
        """The names of a path in the folder: links followed, those of folders followed, as written; none elsewhere."""
        beside = os.path.join(_real(str(path.parent)), path.name)
        real = os.path.realpath(beside) if os.path.islink(beside) else beside  # the image alone may be a link elsewhere
        own = _real(self.folder)
        pairs = ((real, own), (beside, own), (os.path.abspath(path), os.path.abspath(self.folder)))
        names = (one.removeprefix(f"{folder.rstrip('/')}/") for one, folder in pairs)
        return [name for name in dict.fromkeys(names) if not os.path.isabs(name)]

    def look_up(
        self,
        names: Sequence[str],
        declared: tuple[Any, Any] | None,
        location: str,
        notes: Notes,
        objects: int = 1,
        in_pixels: bool = True,
        searched: Sequence[str] | None = None,
    ) -> tuple[str, Size | None] | None:
        """Name and upright size of an image, or None with a note why it cannot be used.

        Args:
            names: see :meth:`find`.
            declared: the size that the source gives; None for none.
            location: file, line or id, for the note.
            notes: takes the reason.
            objects: how many are dropped with it.
            in_pixels: whether the source measures in pixels of that size; else only exchanged sides are a reason.
            searched: see :meth:`find`.

        Raises:
            BadItem: for a declared size that is none.
        """
        declared = _checked_size(declared)
        found, objects = self.find(names, searched), max(objects, 1)
        if found is None:
            notes.drop(Reason.NO_IMAGE, location, f"no {names[0] if names else 'name'} in {self.folder}", objects)
            return None
        name, asked = found
        if not self.opened:
            return name, declared
        try:
            size = self._size(name)
        except (ImageError, OSError) as error:
            notes.drop(Reason.BROKEN_IMAGE, location, str(error), objects)
            return None
        if declared is not None and declared != size and (in_pixels or declared[::-1] == size):
            turned = (
                "; its sides are exchanged: measured before it was turned upright?" if declared[::-1] == size else ""
            )
            said, real = (f"{width}x{height}" for width, height in (declared, size))
            notes.drop(Reason.SIZE_DIFFERS, location, f"{name} is {real}, said to be {said}{turned}", objects)
            return None
        notes.take_image(name, asked)
        return name, size

    def _size(self, name: str) -> Size:
        """The size of an image, kept: instruction data names one image many times in a row."""
        if (size := self._sizes.get(name)) is None:
            size = image_size(f"{self.folder}/{name}")
            if len(self._sizes) >= _KEPT:
                self._sizes.clear()
            self._sizes[name] = size
        return size

    def _files(self) -> dict[str, list[str]]:
        """Images below the folder by base name, each with its path in the folder."""
        if self._by_name is None:
            self._by_name = {}
            for folder, _, names in sorted(os.walk(self.folder)):
                inside = os.path.relpath(folder, self.folder).replace(os.sep, "/")
                if any(part.startswith(_SEGMENTS) for part in inside.split("/")):
                    continue
                for name in names:
                    if Path(name).suffix.lower() in SUFFIXES:
                        path = name if inside == "." else f"{inside}/{name}"
                        self._by_name.setdefault(name, []).append(path)
        return self._by_name


def _checked_size(size: tuple[Any, Any] | None) -> Size | None:
    """A size as the source gives it, which may be any JSON; ``640.0`` is whole."""
    if size is None:
        return None
    if not all(type(side) in (int, float) and side > 0 and side == side // 1 for side in size):
        raise BadItem(f"width and height are whole numbers above 0, got {short(size[0])} and {short(size[1])}")
    return int(size[0]), int(size[1])


def tails(path: str, most: int = 2) -> list[str]:
    """The last parts of a path on another machine, the longest first: an image may lie under each of them.

    Args:
        path: with slashes.
        most: parts.
    """
    parts = path.split("/")
    return ["/".join(parts[-count:]) for count in range(min(most, len(parts)), 0, -1)]


@lru_cache(maxsize=1024)
def _real(folder: str) -> str:
    """A folder without links."""
    return os.path.realpath(folder)


def _full_name(name: str, names: Sequence[str]) -> str:
    """The first of the names that a name is, or is the end of."""
    return next((one for one in names if is_end(name, one)), name)


def _clean(name: str) -> str:
    """A name that stays in the folder: Windows' separators turned, drive, root and ``..`` cut off."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(part for number, part in enumerate(parts) if number or not part.endswith(":"))
