r"""LLaVA's JSON training records plus ``"regions"``, checked with the line of every bad one.

A file is a JSON array, or JSON Lines with one record a line. A record is what LLaVA reads, and a list of regions, one
for each ``<region>`` in its conversation (PVIT's inline markup, see :mod:`pvit_ext.prompt`, needs no entry)::

    {"id": "7", "image": "coco/7.jpg",
     "conversations": [{"from": "human", "value": "<image>\nWhat is <region>?"}, {"from": "gpt", "value": "A dog."}],
     "regions": [[10, 20, 200, 300]]}

A region is ``[x0, y0, x1, y1]`` in pixels of the upright image, or an object with exactly one of ``box``, ``point``,
``polygon``, ``scribble`` or ``mask``, and optionally ``"normalized": true`` (not for masks) and ``"image": k``. A mask
is the path of a PNG in the image folder, or run lengths as in COCO, ``{"size": [height, width], "counts": [...]}``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

from pvit_ext.data.json_records import JsonFileError, read_json_records
from pvit_ext.data.schema import Spec, parse_record
from pvit_ext.data.summary import Summary
from pvit_ext.regions.image import ImageError, image_size
from pvit_ext.regions.mask import PendingMask
from pvit_ext.regions.region import Region, RegionError, ResolvedRegion, Size

if TYPE_CHECKING:
    from pvit_ext.data.bad_records import BadRecords

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


class BadRecord(NamedTuple):
    """A record that cannot be used: file, line and id, and the same with what is wrong."""

    where: str
    problem: str


@dataclass(frozen=True)
class Record:
    """One training sample.

    Args:
        data: what LLaVA reads; inline markup has become ``<region>``, and there is no ``regions``.
        specs: a region, or a mask that is still to be read, for each ``<region>`` in order.
        where: file, line and id, for error messages.
        image_folder: where mask files are looked for.
    """

    data: dict[str, Any]
    specs: tuple[Spec, ...]
    where: str
    image_folder: str | None = None

    @property
    def regions(self) -> list[Region]:
        """The regions in the order of their placeholders; masks are read now.

        Raises:
            RegionError: for a mask that cannot be read; names the record.
        """
        return [spec if isinstance(spec, Region) else spec.load(self.image_folder, self.where) for spec in self.specs]

    @property
    def kinds(self) -> list[str]:
        """The kind of each region; no mask is read."""
        return ["mask" if isinstance(spec, PendingMask) else spec.kind for spec in self.specs]

    def resolve(self, size: Size) -> list[ResolvedRegion]:
        """The regions as :meth:`Region.resolve` gives them for an image of this (width, height)."""
        return [one.resolve(size, f"{self.where}: region {number}") for number, one in enumerate(self.regions)]


class Records(Sequence[Record]):
    """The records of a data file.

    Attributes:
        summary: what the file holds.
    """

    def __init__(self, records: list[Record], summary: Summary) -> None:
        self._records, self.summary = records, summary

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        return self._records[index]


def load_records(
    path: str | PathLike[str], image_folder: str | PathLike[str] | None = None, bad: BadRecords | None = None
) -> Records:
    """Read and check a data file.

    Args:
        path: JSON array or JSON Lines.
        image_folder: if given, every image must exist in it.
        bad: takes note of bad records, in whose places the next good ones (behind the last, the first) are returned.

    Raises:
        RecordError: listing all bad records, if there are more than ``bad`` allows, or an array that breaks off.
    """
    entries, complete = _scan(path, image_folder)
    found = [entry for entry in entries if isinstance(entry, BadRecord)]
    if found and (bad is None or not complete or len(found) == len(entries)):
        raise RecordError(*(one.problem for one in found))
    if bad is not None:
        bad.add(*found)
    following = next(entry for entry in entries if isinstance(entry, Record))
    records = [following := entry if isinstance(entry, Record) else following for entry in reversed(entries)]
    return Records(records[::-1], _summary(entries))


def count_regions(path: str | PathLike[str], image_folder: str | PathLike[str] | None = None) -> Summary:
    """How many records, images and regions a data file holds, of its good records; no model is needed.

    Args:
        path: JSON array or JSON Lines.
        image_folder: if given, a record whose image is not in it does not count.
    """
    return _summary(_scan(path, image_folder)[0])


def validate(
    path: str | PathLike[str], image_folder: str | PathLike[str] | None = None, check_images: bool = False
) -> list[str]:
    """Every bad record of a data file, one line each with file, line and id, by line; empty if all are good."""
    return check(path, image_folder, check_images)[0]


def check(
    path: str | PathLike[str], image_folder: str | PathLike[str] | None = None, check_images: bool = False
) -> tuple[list[str], Summary]:
    """Every bad record of a data file, one line each with file, line and id, by line; and what the good ones hold.

    Args:
        path: JSON array or JSON Lines.
        image_folder: if given, every image must exist in it.
        check_images: also read each image's header and resolve the regions against its size.
    """
    if check_images and image_folder is None:
        raise ValueError("check_images needs the image_folder")
    entries: Iterable[Record | BadRecord] = _scan(path, image_folder)[0]
    if check_images:
        from tqdm import tqdm

        entries = tqdm(entries, desc="images", unit="record")
    problems, good = [], []
    for one in entries:
        problem = one.problem if isinstance(one, BadRecord) else _image_problem(one) if check_images else None
        if problem:
            problems.append(problem)
        else:
            good.append(one)
    return problems, _summary(good)


def _summary(entries: Iterable[Record | BadRecord]) -> Summary:
    summary = Summary()
    for one in entries:
        if isinstance(one, Record):
            summary.add("image" in one.data, one.kinds)
    return summary


def _scan(path: str | PathLike[str], image_folder: str | PathLike[str] | None) -> tuple[list[Record | BadRecord], bool]:
    """The file's records by line, and whether they are all."""
    entries: list[Record | BadRecord] = []
    name, folder = Path(path).name, None if image_folder is None else str(image_folder)
    value = None
    for line, value in read_json_records(path):
        where = f"{name} line {line}"
        if isinstance(value, dict) and isinstance(value.get("id"), (str, int)):
            where += f" (id {str(value['id'])[:80]!r})"
        try:
            entries.append(Record(*parse_record(value, folder), where, folder))
        except (ValueError, RecursionError) as error:
            entries.append(BadRecord(where, f"{where}: {error}"))
    if not entries:
        entries.append(BadRecord(name, f"{name} line 1: the file holds no record"))
    return entries, not isinstance(value, JsonFileError)


def _image_problem(record: Record) -> str | None:
    if "image" not in record.data:
        return None
    try:
        record.resolve(image_size(Path(record.image_folder or "", record.data["image"])))
    except RegionError as error:
        return str(error)
    except (ImageError, OSError) as error:
        return f"{record.where}: {error}"
    return None
