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

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from pvit_ext.data.json_records import JsonFileError, JsonRecordError, read_json_records
from pvit_ext.prompt import fill_placeholders, find_placeholders, parse_regions
from pvit_ext.regions.image import ImageError, image_size
from pvit_ext.regions.mask import PendingMask
from pvit_ext.regions.region import Region, RegionError, Size

if TYPE_CHECKING:
    from pvit_ext.data.bad_records import BadRecords

SHOWN_PROBLEMS = 20
_SPEAKERS = ("human", "gpt")
_NUMBERS = {"box": 4, "point": 2}
_KINDS = ("box", "point", "polygon", "scribble", "mask")


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
    specs: tuple[Region | PendingMask, ...]
    where: str
    image_folder: str | None = None

    @property
    def regions(self) -> list[Region]:
        """The regions in the order of their placeholders; masks are read now.

        Raises:
            RegionError: for a mask that cannot be read; names the record.
        """
        return [spec if isinstance(spec, Region) else spec.load(self.image_folder, self.where) for spec in self.specs]

    def resolve(self, size: Size) -> list[Region]:
        """The regions as :meth:`Region.resolve` gives them for an image of this (width, height)."""
        return [one.resolve(size, f"{self.where}: region {number}") for number, one in enumerate(self.regions)]


def load_records(
    path: str | PathLike[str], image_folder: str | PathLike[str] | None = None, bad: BadRecords | None = None
) -> list[Record]:
    """Read and check a data file.

    Args:
        path: JSON array or JSON Lines.
        image_folder: if given, every image must exist in it.
        bad: takes note of bad records, in whose places the next good ones (behind the last, the first) are returned.

    Raises:
        RecordError: listing all bad records, if there are more than ``bad`` allows, or an array that breaks off.
    """
    entries, whole = _scan(path, image_folder)
    found = [entry for entry in entries if isinstance(entry, BadRecord)]
    if found and (bad is None or not whole or len(found) == len(entries)):
        raise RecordError(*(one.problem for one in found))
    if bad is not None:
        bad.add(*found)
    following = next(entry for entry in entries if isinstance(entry, Record))
    records = [following := entry if isinstance(entry, Record) else following for entry in reversed(entries)]
    return records[::-1]


def validate(
    path: str | PathLike[str], image_folder: str | PathLike[str] | None = None, check_images: bool = False
) -> list[str]:
    """Every bad record of a data file, one line each with file, line and id, by line; empty if all are good.

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
    found = (e.problem if isinstance(e, BadRecord) else _image_problem(e) if check_images else None for e in entries)
    return [problem for problem in found if problem]


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
            entries.append(_record(value, where, folder))
        except (ValueError, RecursionError) as error:
            entries.append(BadRecord(where, f"{where}: {error}"))
    if not entries:
        entries.append(BadRecord(name, f"{name} line 1: the file holds no record"))
    return entries, not isinstance(value, JsonFileError)


def _record(value: Any, where: str, folder: str | None) -> Record:
    """What is wrong with it is a ValueError that does not name it yet."""
    if isinstance(value, JsonRecordError):
        raise value
    if not isinstance(value, dict):
        raise ValueError(f"a record is a JSON object, got {_short(value)}")
    turns = _conversation(value.get("conversations"))
    if "image" in value:
        _check_file(value["image"], "image", folder)
    written = value.get("regions", [])
    if not isinstance(written, list):
        raise ValueError(f"regions is a list, got {_short(written)}")
    given = [_region(item, f"regions[{number}]", folder) for number, item in enumerate(written)]
    found = [region for turn in turns for region in find_placeholders(turn, "conversations")]
    specs = tuple(fill_placeholders(found, given, "conversations"))
    _check_images_of(turns, specs, "image" in value)
    data = {key: item for key, item in value.items() if key != "regions"}
    if len(given) < len(specs):
        data["conversations"] = [{**turn, "value": parse_regions(turn["value"])[0]} for turn in value["conversations"]]
    return Record(data, specs, where, folder)


def _conversation(turns: Any) -> list[str]:
    """Check the turns and return what is said; LLaVA drops a sample silently that breaks one of these rules."""
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"conversations is a list of {{from, value}}, got {_short(turns)}")
    for number, turn in enumerate(turns):
        speaker = _SPEAKERS[number % 2]
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise ValueError(f'conversations[{number}] is {{"from": "{speaker}", "value": text}}, got {_short(turn)}')
        if turn.get("from") != speaker:
            raise ValueError(f"conversations[{number}] is from {_short(turn.get('from'))}; human and gpt take turns")
        if not turn["value"].strip():
            raise ValueError(f"conversations[{number}] has an empty value")
        if re.search("[\ud800-\udfff]", turn["value"]):
            raise ValueError(f"conversations[{number}] holds half of a surrogate pair, no tokenizer reads that")
    if len(turns) % 2:
        raise ValueError("conversations ends with a question, there is no answer to learn")
    return [turn["value"] for turn in turns]


def _check_file(path: Any, what: str, folder: str | None) -> None:
    if not isinstance(path, str):
        raise ValueError(f"{what} is a path in the image folder, got {_short(path)}")
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if not parts or "\0" in path or parts[0] == "/" or ":" in parts[0] or ".." in parts:
        raise ValueError(f"{what} {_short(path)} must stay inside the image folder: no absolute path, no '..'")
    if folder is not None and not os.path.isfile(os.path.join(folder, path)):  # Path.is_file raises for long names
        raise ValueError(f"{what} {_short(path)} is not in the image folder {folder}")


def _check_images_of(turns: list[str], specs: Sequence[Region | PendingMask], has_image: bool) -> None:
    if "<image>" in "".join(turns[1::2]):
        raise ValueError("<image> stands in an answer; it belongs in a question")
    count = sum(turn.count("<image>") for turn in turns)
    if specs and not has_image:
        raise ValueError(f"{len(specs)} regions but no image; a region lies on an image")
    if count != has_image:
        raise ValueError(f"{count} <image> placeholders but {int(has_image)} image; LLaVA reads one image a record")
    for spec in specs:
        if spec.image != 0:
            raise ValueError(f"a region lies on image {spec.image}, but the record has one image, number 0")


def _region(item: Any, where: str, folder: str | None) -> Region | PendingMask:
    fields = {"box": item} if isinstance(item, list) else item
    if not isinstance(fields, dict) or len(kinds := [kind for kind in _KINDS if kind in fields]) != 1:
        known = ", ".join(_KINDS)
        raise ValueError(f"{where} is [x0, y0, x1, y1] or an object with one of {known}, got {_short(item)}")
    if unknown := sorted(set(fields) - {kinds[0], "normalized", "image"}):
        raise ValueError(f"{where} has unknown keys {_short(unknown)}; known are normalized and image")
    normalized, image = fields.get("normalized", False), fields.get("image", 0)
    if not isinstance(normalized, bool) or isinstance(image, bool) or not isinstance(image, int):
        raise ValueError(f"{where}: normalized is true or false and image an integer, got {_short(item)}")
    value = fields[kinds[0]]
    if kinds[0] != "mask":
        return _shape(kinds[0], value, normalized, image, where)
    if normalized:
        raise ValueError(f"{where}: a mask is in pixels, it cannot be normalized")
    if isinstance(value, str):
        _check_file(value, f"{where}: mask", folder)
    return PendingMask.parse(value, image, where)


def _shape(kind: str, value: Any, normalized: bool, image: int, where: str) -> Region:
    numbers = _NUMBERS.get(kind)
    if not isinstance(value, list) or (numbers and len(value) != numbers):
        wanted = f"{numbers} numbers" if numbers else "points"
        raise ValueError(f"{where}: a {kind} is a list of {wanted}, got {_short(value)}")
    try:
        region: Region = getattr(Region, kind)(*(value if numbers else [value]), normalized=normalized, image=image)
    except RegionError as error:
        raise ValueError(f"{where}: {error}") from error
    region.check(where)
    # Fractions without "normalized" would all mean the top-left pixel, which nobody points at with decimals.
    values = [value for point in region.points for value in point]
    if not normalized and max(values) <= 1 and any(value != int(value) for value in values):
        raise ValueError(f'{where}: {region} lies in the top-left pixel; for fractions add "normalized": true')
    return region


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


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
