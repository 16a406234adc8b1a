"""The records of one source: which can be used, which are taken, and as what they are written."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvit_ext.data.convert.notes import Notes, Reason
from pvit_ext.data.held_out import HeldOut
from pvit_ext.data.json_records import Found, JsonFileError, read_json_records
from pvit_ext.data.mix.config import MixSource
from pvit_ext.data.scan import name_of
from pvit_ext.data.schema import parse_record, task_of
from pvit_ext.data.tasks.choice import draw


class _Line(NamedTuple):
    file: str
    found: Found


@dataclass
class Survey:
    """What a pass over a source found.

    Args:
        usable: bool (N,), of all its records in order.
        other_tasks: of the records that were passed over, by task.
        tasks: of the others.
        same_ids: records whose id an earlier one has.
        held_out: records of photographs that evaluation needs.
    """

    usable: NDArray[np.bool_]
    other_tasks: Counter[str] = field(default_factory=Counter)
    tasks: set[str] = field(default_factory=set)
    same_ids: int = 0
    held_out: int = 0

    def times(self, name: str, amount: int, seed: int) -> NDArray[np.int64]:
        """How often each record is taken, int64 (N,): as often as the others, or once more by the seed's choice.

        Args:
            name: of the source.
            amount: of records to take.
            seed: of the mixture.
        """
        indices = np.flatnonzero(self.usable)
        rounds, rest = divmod(amount, len(indices))
        keys = np.array([draw(seed, name, number) for number in range(len(indices))], np.uint64) if rest else indices
        times = np.zeros(len(self.usable), np.int64)
        times[indices] = rounds
        times[indices[np.argsort(keys, kind="stable")[:rest]]] += 1
        return times


def survey(source: MixSource, held_out: HeldOut, notes: Notes, max_bad: int) -> Survey:
    """Read a source once, and check each record.

    Args:
        source: what to read.
        held_out: what must not be trained on.
        notes: takes what is left out; reading ends where it holds more bad records than allowed.
        max_bad: how many are.
    """
    usable, ids, found = array("b"), array("Q"), Survey(np.zeros(0, np.bool_))
    for line in _lines(source):
        location = name_of(line.file, line.found.line, line.found.value)
        kept = _check(line.found.value, source, held_out, notes, location, found)
        usable.append(kept)
        if kept:
            key = _name(line).encode("utf-8", "surrogatepass")
            ids.append(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big"))
        if notes.problems > max_bad:
            break
    found.usable = np.frombuffer(usable, np.int8).astype(np.bool_) if usable else found.usable
    found.same_ids = len(ids) - len(np.unique(np.frombuffer(ids, np.uint64))) if ids else 0
    return found


def _check(record: Any, source: MixSource, held_out: HeldOut, notes: Notes, location: str, found: Survey) -> bool:
    """Whether a record can be used; else it is noted why not."""
    try:
        parse_record(record, None)
    except (ValueError, RecursionError) as error:
        notes.bad(location, str(error))
        return False
    task = task_of(record)
    if source.tasks and task not in source.tasks:
        found.other_tasks[task] += 1
        return False
    found.tasks.add(task)
    if reason := held_out.reason_for(record):
        notes.drop(Reason.HELD_OUT, location, reason)
        notes.met |= {one[1] for one in [held_out.met_by(record)] if one}
        found.held_out += 1
        return False
    return True


def records_of_source(source: MixSource, times: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
    """The records that are taken, in the order of the files; those that are taken again come in further passes.

    Args:
        source: what to read.
        times: how often each record is taken, int64 (N,).
    """
    for turn in range(int(times.max(initial=0))):
        for number, line in enumerate(_lines(source)):
            if times[number] > turn:
                yield _renamed(line, source, turn)


def _lines(source: MixSource) -> Iterator[_Line]:
    """All records of the files.

    Raises:
        ValueError: for a file that breaks off.
    """
    for file in source.files:
        found: Found | None = None
        for found in read_json_records(file):
            yield _Line(file.name, found)
        if found is not None and isinstance(found.value, JsonFileError):
            raise ValueError(
                f"{file} line {found.line}: {found.value}; nothing behind it can be read, correct the file"
            )


def _name(line: _Line) -> str:
    """The record's id, its place where it has none."""
    id = line.found.value.get("id")
    return f"{line.file}-{line.found.line}" if id is None else str(id)


def _renamed(line: _Line, source: MixSource, turn: int) -> dict[str, Any]:
    """A record with an id that names its source, and with images where training finds them."""
    record: dict[str, Any] = {**line.found.value}
    record["id"] = f"{source.name}:{_name(line)}" + (f"@{turn + 1}" if turn else "")
    if source.images:
        image, regions = record.get("image"), record.get("regions")
        if image is not None:
            record["image"] = (
                [_inside(source, one) for one in image] if isinstance(image, list) else _inside(source, image)
            )
        if regions:
            record["regions"] = [_with_mask_inside(source, one) for one in regions]
    return record


def _inside(source: MixSource, name: str) -> str:
    return f"{source.images}/{name}"


def _with_mask_inside(source: MixSource, region: Any) -> Any:
    """A mask that is a file lies in the image folder too."""
    if isinstance(region, dict) and isinstance(region.get("mask"), str):
        return {**region, "mask": _inside(source, region["mask"])}
    return region
