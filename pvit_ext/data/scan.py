"""One pass over a data file: where each record stands, which are bad, and what the good ones hold."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvit_ext.config import RECORD_KEY
from pvit_ext.data.file_kind import known_format, seems_to_be
from pvit_ext.data.json_records import Found, JsonFileError, parse_line, read_json_records
from pvit_ext.data.schema import images_of, kind_of, parse_record
from pvit_ext.data.summary import Summary
from pvit_ext.data.tags.tags import TAGS_KEY
from pvit_ext.prompt import HINT_PLACEHOLDER

COLUMNS = ("start", "end", "line", "words", "regions", "lion")
"""The columns of a row: its bytes in the file, its line, its words, negative without an image as LLaVA's sampler wants
them, how many regions it has, and what it says to LION's parts: :data:`TAGGED` and :data:`HINT_IN_ANSWER`, and above
them the task that it names, by its number in :attr:`Scan.named` from 1, 0 for none."""
TAGGED, HINT_IN_ANSWER, NAMED = 1, 2, 2
"""Bits of the last column, and how far it is shifted for the task."""


class BadRecord(NamedTuple):
    """A record that cannot be used: file, line and id, and the same with what is wrong."""

    location: str
    problem: str


@dataclass
class Scan:
    """What a pass over a file found.

    Args:
        rows: int64 (N, 6), see :data:`COLUMNS`.
        bad: by row, those that cannot be used.
        summary: of the others.
        complete: every record of the file has its row.
        named: values of the records' ``lion_task``, each once; whether a model knows them is not looked at.
    """

    rows: NDArray[np.int64]
    bad: dict[int, BadRecord] = field(default_factory=dict)
    summary: Summary = field(default_factory=Summary)
    complete: bool = True
    named: list[Any] = field(default_factory=list)


def scan(path: str | PathLike[str], folder: str | None) -> Scan:
    """Check every record of a file.

    Args:
        path: JSON array or JSON Lines.
        folder: if given, images and masks must exist in it.
    """
    name, rows, result = Path(path).name, array("q"), Scan(np.zeros((0, len(COLUMNS)), np.int64))
    first: Any = None
    found: Any = None
    alike = 0  # values that look like a record
    named: dict[str, int] = {}
    for number, found in enumerate(read_json_records(path)):
        first = found.value if number == 0 else first
        alike += isinstance(found.value, dict) and "conversations" in found.value
        words = regions = lion = 0
        try:
            data, specs = parse_record(found.value, folder)
        except (ValueError, RecursionError) as error:
            location = name_of(name, found.line, found.value)
            result.bad[number] = BadRecord(location, f"{location}: {error}")
        else:
            words, images, regions, lion = count_words(data), images_of(data), len(specs), _lion(data, named)
            result.summary.add(images, [kind_of(spec) for spec in specs])
        rows.extend((found.start, found.end, found.line, words, regions, lion))
    if found is None:
        return Scan(result.rows, {0: BadRecord(name, f"{name} line 1: the file holds no record")}, complete=False)
    result.summary = Summary(**result.summary.to_dict())  # without what counted the images
    result.rows = np.frombuffer(rows, np.int64).reshape(-1, len(COLUMNS))
    result.named = [json.loads(one) for one in named]
    result.complete = not isinstance(found.value, JsonFileError)
    if not alike and (len(result.rows) > 1 or known_format(first)):
        return _no_list(path, result, first, found)
    return result


def _lion(data: dict[str, Any], named: dict[str, int]) -> int:
    """The last of :data:`COLUMNS`; a task that was not named before gets the next number."""
    found = TAGGED * (TAGS_KEY in data)
    if any(HINT_PLACEHOLDER in turn["value"] for turn in data["conversations"][1::2]):
        found |= HINT_IN_ANSWER
    if RECORD_KEY in data:
        found |= named.setdefault(json.dumps(data[RECORD_KEY]), len(named) + 1) << NAMED
    return found


def _no_list(path: str | PathLike[str], result: Scan, first: Any, last: Found) -> Scan:
    """A file in which nothing looks like a record is one problem."""
    name = Path(path).name
    shown = len(result.rows) - 1 if isinstance(last.value, JsonFileError) else 0
    reason = result.bad[shown].problem.removeprefix(name)
    problem = f"{name} line 1: no list of records; it seems to be {seems_to_be(path, first)} (problem at{reason})"
    return Scan(result.rows[:1], {0: BadRecord(name, problem)}, complete=False)


def read_record(stream: BinaryIO, row: Sequence[int] | NDArray[np.int64]) -> Any:
    """The value of a row's record; a JsonRecordError where it is none.

    Args:
        stream: of :func:`~pvit_ext.data.json_records.open_utf8`; where it stands does not matter.
        row: see :data:`COLUMNS`.
    """
    start, end = int(row[0]), int(row[1])
    stream.seek(start)
    return parse_line(stream.read(end - start))


def name_of(file: str, line: int, value: Any) -> str:
    """File, line and id of a record, for error messages."""
    known = isinstance(value, dict) and isinstance(value.get("id"), (str, int))
    return f"{file} line {line}" + (f" (id {str(value['id'])[:80]!r})" if known else "")


def count_words(data: dict[str, Any]) -> int:
    """The words of a conversation; negative without an image."""
    words = sum(len(turn["value"].split()) for turn in data["conversations"])
    return words if "image" in data else -words


def state_of(path: str | PathLike[str]) -> list[Any]:
    """What tells one state of a file from another: its path, size and time of change."""
    status = os.stat(path)
    return [os.path.realpath(path), status.st_size, status.st_mtime_ns, status.st_ino]
