"""The images of a data file that have regions, and whether a file is the one that was read before."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from pvit_ext.data.cache.source import BLANK
from pvit_ext.data.image_files import path_of
from pvit_ext.data.records import Record
from pvit_ext.data.schema import images_of
from pvit_ext.files import sha256_file


class FileState(NamedTuple):
    """A file's contents, and by what to see without reading it that they are still the same.

    Args:
        sha256: of its bytes.
        size: in bytes.
        modified: nanoseconds.
    """

    sha256: str
    size: int
    modified: int


def images_with_regions(records: Iterable[Record]) -> dict[str, str]:
    """Name -> path of each image with a region, in the order in which they come first."""
    return _paths(records, lambda record: sorted({spec.image for spec in record.specs}))


def all_images(records: Iterable[Record]) -> dict[str, str]:
    """Name -> path of each image, in the order in which they come first; of a record without one :data:`BLANK`."""
    return {BLANK: BLANK} | _paths(records, lambda record: range(len(images_of(record.data))))


def _paths(records: Iterable[Record], wanted: Callable[[Record], Iterable[int]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for record in records:
        names = images_of(record.data)
        for number in wanted(record):
            if (name := names[number]) not in found:
                found[name] = path_of(str(record.image_folder), name)
    return found


def read_file(path: str) -> tuple[bytes, FileState]:
    """A file's bytes and state.

    Raises:
        OSError: when it cannot be read.
    """
    before = Path(path).stat()
    content = Path(path).read_bytes()
    return content, FileState(hashlib.sha256(content).hexdigest(), len(content), before.st_mtime_ns)


def is_unchanged(path: str, state: FileState) -> bool:
    """Whether a file is as it was: by its size and time, and by its bytes where only the time differs.

    Raises:
        OSError: when it cannot be read.
    """
    if path == BLANK:
        return True
    now = Path(path).stat()
    if now.st_size != state.size:
        return False
    return now.st_mtime_ns == state.modified or sha256_file(path) == state.sha256
