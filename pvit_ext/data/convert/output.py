"""The files that a conversion writes: under temporary names until they are complete, and resumed when it is not."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.notes import GUESSED, Notes
from pvit_ext.data.convert.report import Report, TooManyBad
from pvit_ext.data.convert.taken import check_taken, taken_lines
from pvit_ext.files import atomic_write, lock, sync

_EVERY = 2.0
"""Seconds between two states from which a conversion can go on."""
_BESIDE = (".dropped.jsonl", ".report.json", ".part", ".dropped.part", ".images.part", ".state")
"""Ends of the names of what is written beside the records."""


def check_out(path: Path, sources: Iterable[Path]) -> None:
    """Refuse a path at which the records could not appear, or would overwrite what they are made of.

    Args:
        path: of the records; what is written beside them is looked at too.
        sources: all files that are read, and folders.

    Raises:
        SourceError: saying what is wrong.
    """
    if not path.parent.is_dir():
        raise SourceError(f"{path.parent} is no folder; make it, or name another place for --out")
    if path.is_dir():
        raise SourceError(f"--out {path} is a folder; name a file")
    ends = {key: end for end in (*_BESIDE, "") if (key := _file_key(path.with_name(path.name + end)))}
    for source in sources if ends else ():  # there may be one for each image
        end = ends.get(key) if (key := _file_key(source)) else None
        if end == "":
            raise SourceError(f"--out {path} is what is read; name another place")
        if end is not None:
            raise SourceError(f"--out {path} would overwrite {source}, which is read; name another place")


def _file_key(path: Path) -> tuple[int, int] | None:
    """What tells a file from all others under whatever name, None where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


class Output:
    """Records and the list of what was dropped; a context manager.

    ``FILE.part``, ``FILE.dropped.part``, ``FILE.images.part`` (which images were taken for which names) and
    ``FILE.state`` are what an interrupted conversion goes on from. At the end the first two become ``FILE`` and
    ``FILE.dropped.jsonl``, and ``FILE.report.json`` is written.

    Args:
        path: of the records.
        key: of what is converted and how; parts of another key are begun anew.
        report: takes the notes.

    Attributes:
        batches: how many are written.
    """

    def __init__(self, path: Path, key: str, report: Report) -> None:
        self.path, self.key, self.report = path, key, report
        self.batches = 0
        self._state = path.with_name(path.name + ".state")
        self._parts = [path.with_name(path.name + end) for end in (".part", ".dropped.part", ".images.part")]
        self._finals = [path, path.with_name(path.name + ".dropped.jsonl")]
        self._streams: list[BinaryIO] = []
        self._stack = ExitStack()
        self._saved = time.monotonic()

    def __enter__(self) -> Output:
        for part in self._parts:
            self._streams.append(self._stack.enter_context(open(part, "ab")))
        if not lock(self._streams[0]):
            self._stack.close()
            raise ValueError(f"{self.path} is being written by another run; wait for it, or name another --out")
        if (state := self._load()) is None:
            self._state.unlink(missing_ok=True)  # of parts that are begun anew
        for stream, length in zip(self._streams, state["lengths"] if state else [0, 0, 0], strict=True):
            stream.truncate(length)
            stream.seek(length)
        if state:
            self.batches = state["batches"]
            self.report.restore(state["report"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if isinstance(error, TooManyBad) and self._state.exists():
            return  # with a higher limit it goes on from there
        if isinstance(error, ValueError):  # trying again would fail again
            self._remove()

    def add(self, lines: bytes, notes: Notes) -> None:
        """Append a batch.

        Raises:
            TooManyBad: when there are more bad items than allowed.
        """
        self.report.add(notes)
        self._streams[0].write(lines)
        for drop in notes.drops:
            entry = {
                "reason": drop.reason.name.lower(),
                "location": drop.location,
                "detail": drop.detail,
                "count": drop.count,
            }
            self._streams[1].write(json.dumps(entry).encode() + b"\n")
        self._streams[2].write(taken_lines(notes))
        self.batches += 1
        if time.monotonic() - self._saved > _EVERY:
            self._save()

    def check_images(self) -> list[str]:
        """See :func:`~pvit_ext.data.convert.taken.check_taken`."""
        self._streams[2].flush()
        return check_taken(self._parts[2]) if self.report.counts[GUESSED] else []

    def finish(self) -> None:
        """Give the files their names, the records last.

        Raises:
            TooManyBad: when an interrupted run had noted more bad items than this one allows.
        """
        self.report.check_limit()
        for stream in self._streams:
            stream.flush()
            os.fsync(stream.fileno())
        self.report.write(self.path)
        for part, final in reversed(list(zip(self._parts[:2], self._finals, strict=True))):
            part.replace(final)
        sync(self.path.parent)
        self._remove()

    def _save(self) -> None:
        for stream in self._streams:
            stream.flush()
            os.fsync(stream.fileno())
        lengths = [stream.tell() for stream in self._streams]
        state = {"key": self.key, "batches": self.batches, "lengths": lengths, "report": self.report.state()}
        with atomic_write(self._state) as temporary:
            temporary.write_text(json.dumps(state), encoding="utf-8")
        self._saved = time.monotonic()

    def _load(self) -> dict[str, Any] | None:
        """The state of an interrupted conversion of the same key, None if there is none."""
        try:
            state: dict[str, Any] = json.loads(self._state.read_text(encoding="utf-8"))
            sizes = [part.stat().st_size for part in self._parts]
        except (OSError, ValueError):
            return None
        if state["key"] != self.key or len(state["lengths"]) != len(sizes):
            return None
        complete = all(size >= length for size, length in zip(sizes, state["lengths"], strict=True))
        return state if complete else None

    def _remove(self) -> None:
        for path in (*self._parts, self._state):
            path.unlink(missing_ok=True)
