r"""LLaVA's JSON training records plus ``"regions"``, checked with the line of every bad one.

A file is a JSON array, or JSON Lines with one record a line. A record is what LLaVA reads, and a list of regions, one
for each ``<region>`` in its conversation (PVIT's inline markup, see :mod:`pvit_ext.prompt`, needs no entry)::

    {"id": "7", "image": "coco/7.jpg",
     "conversations": [{"from": "human", "value": "<image>\nWhat is <region>?"}, {"from": "gpt", "value": "A dog."}],
     "regions": [[10, 20, 200, 300]]}

A region is ``[x0, y0, x1, y1]`` in pixels of the upright image, or an object with exactly one of ``box``, ``point``,
``polygon``, ``scribble`` or ``mask``, and optionally ``"normalized": true`` (not for masks) and ``"image": k``. A mask
is the path of a PNG in the image folder, or run lengths as in COCO, ``{"size": [height, width], "counts": [...]}``.
``image`` may be a list of several, with one ``<image>`` for each; a region's ``"image": k`` counts them from 0.

A file is read once: the records' positions in it are kept, and each is read again when it is needed.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, overload

import numpy as np
from numpy.typing import NDArray

from pvit_ext.data.image_files import path_of
from pvit_ext.data.index import load_scan
from pvit_ext.data.json_records import open_utf8
from pvit_ext.data.scan import HINT_IN_ANSWER, NAMED, TAGGED, BadRecord, Scan, name_of, read_record, state_of
from pvit_ext.data.schema import Spec, images_of, kind_of, parse_record
from pvit_ext.data.summary import Summary
from pvit_ext.regions.mask import PendingMask
from pvit_ext.regions.region import Region, ResolvedRegion, Size

if TYPE_CHECKING:
    from pvit_ext.data.bad_records import BadRecords

__all__ = ["BadRecord", "Record", "RecordError", "Records", "count_regions", "load_records"]
SHOWN_PROBLEMS = 20


class RecordError(ValueError):
    """A data file with bad records.

    Args:
        problems: one line for each, with file, line and id of the record.
        advice: what to do about more than one.
    """

    def __init__(self, *problems: str, advice: str = "") -> None:
        self.problems = list(problems)
        more = len(problems) - SHOWN_PROBLEMS
        shown = "\n".join(problems[:SHOWN_PROBLEMS]) + (f"\n... and {more} more" if more > 0 else "")
        super().__init__(
            shown if len(problems) == 1 and not advice else f"{len(problems)} bad records{advice}:\n{shown}"
        )


@dataclass(frozen=True)
class Record:
    """One training sample.

    Args:
        data: what LLaVA reads; inline markup has become ``<region>``, and there is no ``regions``.
        specs: a region, or a mask that is still to be read, for each ``<region>`` in order.
        location: file, line and id, for error messages.
        image_folder: where mask files are looked for.
    """

    data: dict[str, Any]
    specs: tuple[Spec, ...]
    location: str
    image_folder: str | None = None

    @property
    def regions(self) -> list[Region]:
        """The regions in the order of their placeholders; masks are read now.

        Raises:
            RegionError: for a mask that cannot be read; names the record.
        """
        return [spec if isinstance(spec, Region) else self._mask(spec) for spec in self.specs]

    def _mask(self, spec: PendingMask) -> Region:
        file = spec.source
        if isinstance(file, str) and self.image_folder is not None:
            return replace(spec, source=path_of(self.image_folder, file)).load("", self.location)
        return spec.load(self.image_folder, self.location)

    @property
    def kinds(self) -> list[str]:
        """The kind of each region; no mask is read."""
        return [kind_of(spec) for spec in self.specs]

    @property
    def image_files(self) -> list[str]:
        """The paths of its images; one that is not there as it is named in the record.

        Raises:
            ValueError: without an image folder.
        """
        names = images_of(self.data)
        if names and self.image_folder is None:
            raise ValueError(f"{self.location}: image {names[0]!r} is a file, give the image folder")
        return [path_of(str(self.image_folder), name) for name in names]

    def resolve(self, sizes: Size | Sequence[Size]) -> list[ResolvedRegion]:
        """The regions as :meth:`Region.resolve` gives them.

        Args:
            sizes: (width, height) of the image, or of each where there are several.
        """
        each: Any = sizes if sizes and isinstance(sizes[0], tuple) else [sizes]
        regions = enumerate(self.regions)
        return [one.resolve(each[one.image], f"{self.location}: region {number}") for number, one in regions]


class Records(Sequence[Record]):
    """The records of a data file, each read when it is asked for; workers of a process share its pages.

    Args:
        path: of the file.
        folder: where mask files are looked for.
        found: by a pass over the file, with one good record at least.

    Attributes:
        summary: what the file holds.
        words: int64 (N,), of each record's conversation, negative without an image.
        region_counts: int64 (N,), of each record's regions.
        named_tasks: values of ``lion_task`` in the file, each once.
    """

    def __init__(self, path: str | PathLike[str], folder: str | None, found: Scan) -> None:
        self._path, self._folder, self._rows = str(path), folder, found.rows
        self._state, self.summary, self.named_tasks = state_of(path), found.summary, found.named
        self._row = _replacements(len(found.rows), found.bad)
        self._stream: BinaryIO | None = None
        self._process = 0

    @property
    def words(self) -> NDArray[np.int64]:
        """Words of each record's conversation, negative without an image."""
        words: NDArray[np.int64] = np.asarray(self._rows[:, 3])[self._row]
        return words

    @property
    def region_counts(self) -> NDArray[np.int64]:
        """How many regions each record has."""
        counts: NDArray[np.int64] = np.asarray(self._rows[:, 4])[self._row]
        return counts

    @property
    def task_numbers(self) -> NDArray[np.int64]:
        """Which of ``named_tasks`` each record says, (N,); -1 for none."""
        return (self._lion >> NAMED) - 1

    @property
    def tagged(self) -> NDArray[np.bool_]:
        """Which records say tags, (N,)."""
        return (self._lion & TAGGED) > 0

    @property
    def hint_in_answer(self) -> NDArray[np.bool_]:
        """Which records have ``<hint>`` in an answer, (N,)."""
        return (self._lion & HINT_IN_ANSWER) > 0

    @property
    def _lion(self) -> NDArray[np.int64]:
        column: NDArray[np.int64] = np.asarray(self._rows[:, 5])[self._row]
        return column

    @property
    def image_folder(self) -> str | None:
        """Where image and mask files are looked for."""
        return self._folder

    def __len__(self) -> int:
        return len(self._row)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        row = self._rows[self._row[index]]
        value = read_record(self._open(), row)
        location = name_of(Path(self._path).name, int(row[2]), value)
        try:
            return Record(*parse_record(value, None), location, self._folder)
        except ValueError as error:
            raise RecordError(f"{location}: {error}; the file was changed while it is in use, start again") from error

    def first(self, count: int) -> Records:
        """The first records alone.

        Args:
            count: how many; all if there are fewer.
        """
        found = copy.copy(self)
        found._row, found._stream = self._row[:count], None
        return found

    def raw(self) -> Iterator[Any]:
        """The values of all records as the file has them, one after the other: no region is read."""
        for row in self._rows[self._row]:
            yield read_record(self._open(), row)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_stream": None, "_rows": np.array(self._rows)}

    def _open(self) -> BinaryIO:
        """The file, opened by each process for itself: forked ones would share the position in it."""
        if self._stream is None or self._process != os.getpid():
            if state_of(self._path) != self._state:
                raise RecordError(f"{self._path} was changed while it is in use, start again")
            self._stream, self._process = open_utf8(self._path), os.getpid()
        return self._stream


def _replacements(count: int, bad: dict[int, BadRecord]) -> NDArray[np.int64]:
    """The row that is read for each row, int64 (N,): for a bad one the next good one, behind the last the first."""
    row = np.arange(count)
    good = row[~np.isin(row, list(bad))]
    return good[np.searchsorted(good, row) % len(good)]


def folder_of(image_folder: str | PathLike[str] | None) -> str | None:
    """The image folder, which exists: else each record of the file would be a problem."""
    if image_folder is not None and not os.path.isdir(image_folder):
        raise NotADirectoryError(f"the image folder {os.fspath(image_folder)} is not there, or is no folder")
    return None if image_folder is None else str(image_folder)


def load_records(
    path: str | PathLike[str], image_folder: str | PathLike[str] | None = None, bad: BadRecords | None = None
) -> Records:
    """Check a data file; all processes of a machine do so together, once.

    Args:
        path: JSON array or JSON Lines.
        image_folder: if given, every image must exist in it.
        bad: takes note of bad records, for which the next good ones (behind the last, the first) are returned.

    Raises:
        RecordError: listing all bad records, if there are more than ``bad`` allows, or an array that breaks off.
    """
    folder = folder_of(image_folder)
    found = load_scan(path, folder)
    if found.bad and (bad is None or not found.complete or len(found.bad) == len(found.rows)):
        raise RecordError(*(one.problem for one in found.bad.values()))
    if bad is not None:
        bad.add(*found.bad.values())
    return Records(path, folder, found)


def count_regions(path: str | PathLike[str], image_folder: str | PathLike[str] | None = None) -> Summary:
    """How many records, images and regions a data file holds, of its good records; no model is needed.

    Args:
        path: JSON array or JSON Lines.
        image_folder: if given, a record whose image is not in it does not count.
    """
    return load_scan(path, folder_of(image_folder)).summary
