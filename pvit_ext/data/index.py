"""The pass over a data file, made once for all ranks and workers of a machine and kept in a cache."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from pvit_ext.data.json_records import open_utf8
from pvit_ext.data.scan import COLUMNS, BadRecord, Scan, read_record, scan, state_of
from pvit_ext.data.schema import parse_record
from pvit_ext.data.summary import Summary
from pvit_ext.files import atomic_write

FOLDER = "PVIT_EXT_CACHE"
"""Environment variable: where indexes are kept; default pvit_ext in the user's cache folder."""
MAX_AGE = 3600.0
"""Seconds for which an index is used: the ranks of a run start together, a later one looks for the images again."""
_CALM = 2.0
"""Seconds since a file's change before it is indexed: it may change again, unseen, within one tick of its clock."""
_VERSION = 5
_log = logging.getLogger(__name__)


def load_scan(path: str | PathLike[str], folder: str | None) -> Scan:
    """What :func:`~pvit_ext.data.scan.scan` gives, from the cache where another process has just made it."""
    key = json.dumps([_VERSION, state_of(path), folder and os.path.realpath(folder)])
    cached = _cache_folder() / f"records-{hashlib.sha256(key.encode()).hexdigest()[:32]}.index"
    if (found := _read(cached, key, path, folder)) is not None:
        return found
    with _locked(cached.with_suffix(".lock")):
        if (found := _read(cached, key, path, folder)) is not None:
            return found
        made = scan(path, folder)
        if made.complete and time.time() - os.stat(path).st_mtime > _CALM:
            _write(cached, key, made)
    return made


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(FOLDER) or Path(base, "pvit_ext"))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; where there is no folder or no lock, each does its own work."""
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context(open(path, "a")), fcntl.LOCK_EX)  # until it is closed
        except OSError as error:
            _log.debug("no lock on %s: %s", path, error)
        yield


def _write(cached: Path, key: str, made: Scan) -> None:
    head = {"key": key, "rows": len(made.rows), "summary": made.summary.to_dict(), "bad": made.bad, "named": made.named}
    try:
        with atomic_write(cached) as temporary:
            temporary.write_bytes(json.dumps(head).encode() + b"\n" + made.rows.tobytes())
        _remove_old(cached.parent)
    except OSError as error:
        _log.warning("the index of the data file cannot be kept in %s, every process reads the file: %s", cached, error)


def _read(cached: Path, key: str, path: str | PathLike[str], folder: str | None) -> Scan | None:
    """The index, or None where there is none or a bad record is good by now; rows stay in the file, shared by all."""
    try:
        if time.time() - cached.stat().st_mtime > MAX_AGE:
            return None
        with open(cached, "rb") as stream:
            line = stream.readline()
            head = json.loads(line)
        if head["key"] != key:
            return None
        shape = head["rows"], len(COLUMNS)
        rows = np.memmap(cached, np.int64, "r", offset=len(line), shape=shape)
        bad = {int(row): BadRecord(*one) for row, one in head["bad"].items()}
        with open_utf8(path) as data:
            mended = any(_is_good(read_record(data, rows[row]), folder) for row in bad)
        return None if mended else Scan(rows, bad, Summary(**head["summary"]), named=head["named"])
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or not ours
        return None


def _is_good(value: Any, folder: str | None) -> bool:
    try:
        parse_record(value, folder)
    except (ValueError, RecursionError):
        return False
    return True


def _remove_old(folder: Path) -> None:
    for old in folder.glob("records-*"):
        if time.time() - old.stat().st_mtime > 24 * MAX_AGE:
            old.unlink(missing_ok=True)
