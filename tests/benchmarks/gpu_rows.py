"""A CSV file that several processes append to, one whole row at a time: what was written outlives whoever is killed."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

COLUMNS = ("run", "outcome", "seconds", "facts", "reason")
FILE, MACHINE = "PVIT_EXT_GPU_ROWS", "PVIT_EXT_GPU_MACHINE"
"""Environment variables that tell a step where its rows go, and what each row says of the machine (JSON)."""


def begin(path: Path, machine: dict[str, Any], keep: bool = False) -> None:
    """Start a file with its header.

    Args:
        path: of the file; its folder is made.
        machine: what each row says of the machine.
        keep: rows that are there already, if they have the same columns.

    Raises:
        ValueError: if rows of other columns are to be kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    header = _line([*COLUMNS, *machine])
    if keep and path.exists():
        with path.open(newline="") as file:
            if file.readline() != header:
                raise ValueError(f"{path} has rows of other columns: give another --to, or leave --only out")
        return
    path.write_text(header, newline="")


def append(path: Path, row: dict[str, Any], machine: dict[str, Any]) -> None:
    """Add one row in one write, which no other process's write can split.

    Args:
        path: of a file that :func:`begin` made.
        row: values by :data:`COLUMNS`; those that are not there stay empty.
        machine: as ``begin`` got it.
    """
    unknown = set(row) - set(COLUMNS)
    if unknown:
        raise ValueError(f"a row has no column {sorted(unknown)}; it has {', '.join(COLUMNS)}")
    line = _line([*(row.get(name, "") for name in COLUMNS), *machine.values()])
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def append_here(row: dict[str, Any]) -> None:
    """The same in a step, which knows file and machine by its environment; without them nothing is written."""
    if FILE in os.environ:
        append(Path(os.environ[FILE]), row, json.loads(os.environ[MACHINE]))


def read(path: Path) -> list[dict[str, str]]:
    """All rows."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _line(values: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()
