"""Save as training record: one line more in a JSON Lines file, the picture beside it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from pvit_ext.data.schema import parse_record
from pvit_ext.files import atomic_write
from pvit_ext.serving.demo.copies import as_line, record_of
from pvit_ext.serving.demo.pictures import Picture
from pvit_ext.serving.demo.turns import Talk

RECORDS, IMAGES = "records.jsonl", "images"


class Saving:
    """Appends records; several demos may write to one folder.

    Args:
        folder: gets ``records.jsonl`` and ``images``, when the first record is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()

    def save(self, talk: Talk) -> dict[str, Any]:
        """Append the conversation, every answer of which there is; one that is in the file is not written again.

        Args:
            talk: of one or more answered turns.

        Returns:
            ``file`` and ``line`` of the record, counted from 1, and whether it was there ``before``.

        Raises:
            ValueError: for what our own reader would refuse.
            OSError: where nothing can be written; the file is as it was.
        """
        talk.regions()
        if unanswered := [number for number, turn in enumerate(talk.turns, 1) if not turn.answer.strip()]:
            raise ValueError(f"turn {unanswered[0]} has no answer; write one, then save")
        with self._lock:
            image = self._keep(talk.picture)
            record = record_of(talk, image)
            parse_record(record, str(self.folder / IMAGES))
            line, before = append_record(self.folder / RECORDS, record)
        return {"file": str(self.folder / RECORDS), "line": line, "before": before}

    def _keep(self, picture: Picture) -> str:
        """The picture's name in the image folder; its bytes are stored as they were given."""
        name = picture.digest + picture.file.suffix
        target = self.folder / IMAGES / name
        if not target.exists():
            with atomic_write(target) as temporary:
                shutil.copyfile(picture.file, temporary)
        return name


def append_record(path: Path, record: dict[str, Any]) -> tuple[int, bool]:
    """Append a record to a file, all of it or nothing; not where the file has one of its id.

    Args:
        path: of the file, made where there is none.
        record: with an ``"id"``.

    Returns:
        its line, counted from 1, and whether it was there before.

    Raises:
        OSError: when it cannot be written whole; the file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b", buffering=0) as stream, _locked(stream):
        number, last, wanted = 0, b"\n", as_line(record["id"]).encode()
        stream.seek(0)
        for number, last in enumerate(_lines(stream), 1):
            if wanted in last and _id_of(last) == record["id"]:
                return number, True
        unended = not last.endswith(b"\n")  # a file that an editor wrote
        end, rest = stream.seek(0, os.SEEK_END), (b"\n" if unended else b"") + as_line(record).encode() + b"\n"
        try:
            while rest:
                rest = rest[stream.write(rest) :]
            os.fsync(stream.fileno())
        except OSError:
            os.ftruncate(stream.fileno(), end)
            raise
    return number + 1, False


def _lines(stream: FileIO) -> Iterator[bytes]:
    with open(stream.fileno(), "rb", closefd=False) as lines:
        yield from lines


def _id_of(line: bytes) -> Any:
    """The id of a line; None for what is no record."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record.get("id") if isinstance(record, dict) else None


@contextmanager
def _locked(stream: FileIO) -> Iterator[None]:
    with suppress(OSError):  # some cluster file systems have no locks
        fcntl.flock(stream, fcntl.LOCK_EX)
    yield
