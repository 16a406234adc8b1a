"""Bad records that a run survives: counted, and listed once each in a file that all its processes share."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pvit_ext.data.records import BadRecord, RecordError

LIST = "bad_records.jsonl"
_log = logging.getLogger(__name__)


class BadRecords:
    """The bad records of a run, at most ``limit`` of them.

    Once :meth:`open` has named the run's folder they are kept in ``bad_records.jsonl`` there, and those that other
    ranks, data workers and earlier parts of a resumed run listed count too.

    Args:
        limit: how many the run may replace.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._found: dict[str, str] = {}
        self._path: Path | None = None
        self._waits = False

    def open(self, folder: str | os.PathLike[str]) -> None:
        """List them in this folder from now on, first those found so far.

        Raises:
            RecordError: as :meth:`add`.
        """
        self._path = Path(folder, LIST)
        if self._found:
            self.add()

    @contextmanager
    def together(self) -> Iterator[None]:
        """What several passes over the records find ends the run after the last of them, with all in one list.

        Raises:
            RecordError: as :meth:`add`; in place of the error of a pass that failed by what was left.
        """
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
            self.add()

    def add(self, *found: BadRecord) -> None:
        """Take note of bad records; one that is known already is not counted again.

        Raises:
            RecordError: with the list, if there are more than the limit by now.
        """
        self._found = {one.location: one.problem for one in found} | self._found
        if self._waits:
            return
        if self._path is not None and self.limit:
            self._found = _merge(self._path, self._found)
        if len(self._found) > self.limit:
            listed = f"; {self._path} lists them and is counted from, remove it after mending" if self._path else ""
            advice = f", --max_bad_records allows {self.limit}{listed}" if self.limit else ""
            raise RecordError(*self._found.values(), advice=advice)


def _merge(path: Path, found: dict[str, str]) -> dict[str, str]:
    """Append what the file does not list yet, under a lock; returns all that it lists now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as stream:
        with suppress(OSError):  # some cluster file systems have no locks; then a record may be listed twice
            fcntl.flock(stream, fcntl.LOCK_EX)  # until it is closed
        stream.seek(0)
        text = stream.read()
        listed = dict(pair for line in text.splitlines() if (pair := _parsed(line)))
        new = {location: problem for location, problem in found.items() if location not in listed}
        if new:
            lines = [json.dumps({"record": location, "problem": problem}) + "\n" for location, problem in new.items()]
            stream.write("".join(["" if text.endswith("\n") or not text else "\n", *lines]))
            stream.flush()
            os.fsync(stream.fileno())
            _log.warning("replaced by the next good record: %s", "\n".join(new.values()))
    return listed | new


def _parsed(line: str) -> tuple[str, str] | None:
    """The record and problem of a line; None for one that a crash cut short."""
    try:
        value: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError:
        return None
    return value["record"], value["problem"]
