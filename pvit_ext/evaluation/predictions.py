"""Answers of a run, in a file that is only appended to: it can be stopped at any time, and goes on where it stood.

The first line says what the answers depend on; each further one is a sample's: ``{"id": ..., "answer": ...}``. Ranks
beside the first write files of their own, which the first one takes in at the beginning and at the end of a run, so
that any number of ranks may go on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from pvit_ext.evaluation.sample import Prediction
from pvit_ext.files import lock

NAME = "predictions.jsonl"


class Predictions:
    """The answers under an output folder; as a context manager it is used by one run at a time.

    Args:
        folder: made if it is missing.
        depends: what the answers depend on, in plain JSON types.
        rank: of this process.
    """

    def __init__(self, folder: Path, depends: Mapping[str, Any], rank: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.main, self.depends = folder / NAME, dict(depends)
        self.path = self.main if rank == 0 else folder / f"predictions.rank{rank}.jsonl"
        self._lock: BinaryIO | None = None

    def __enter__(self) -> Predictions:
        """Take the folder.

        Raises:
            ValueError: when another run has it.
        """
        if self.path == self.main:  # further ranks belong to the run of the first
            self._lock = self.main.open("ab")
            if not lock(self._lock):
                self._lock.close()
                raise ValueError(f"{self.main} is in use by another run: wait for it, or name another --out")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    def gather(self) -> None:
        """Repair the file, and take in what other ranks wrote; for rank 0, while no other writes.

        Raises:
            ValueError: when the answers that are there depend on something else.
        """
        _repair(self.main)
        if not self.main.exists() or not self.main.stat().st_size:
            _append(self.main, [{"run": self.depends}])
        found = self.read()
        for path in sorted(self.main.parent.glob("predictions.rank*.jsonl")):
            _repair(path)
            if path.stat().st_size:
                _check(path, self.depends)
            _append(self.main, [line for line in _lines(path) if "run" not in line and line["id"] not in found])
            path.unlink()

    def read(self) -> dict[str, Prediction]:
        """The answers that are there, by sample id; of a sample's first and second answer, the first.

        Raises:
            ValueError: when they depend on something else.
        """
        _check(self.main, self.depends)
        found: dict[str, Prediction] = {}
        for line in _lines(self.main):
            if "run" not in line:
                found.setdefault(line["id"], Prediction(line["answer"], tuple(line.get("areas", ()))))
        return found

    def add(self, answers: Iterable[tuple[str, Prediction]]) -> None:
        """Keep answers; they are on the disk when this returns."""
        lines: list[dict[str, Any]] = [] if self.path.exists() else [{"run": self.depends}]
        lines += [{"id": id, "answer": one.answer, "areas": list(one.areas)} for id, one in answers]
        _append(self.path, lines)


def _append(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with path.open("ab") as file:
        file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


def _repair(path: Path) -> None:
    """Cut off what a killed run wrote last, if that is no whole line: it is asked again."""
    if path.exists() and not (raw := path.read_bytes()).endswith(b"\n"):
        os.truncate(path, raw.rfind(b"\n") + 1)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, raw in enumerate(path.read_bytes().splitlines(), 1):
        try:
            line = json.loads(raw)
        except ValueError:
            line = None
        if not isinstance(line, dict) or not ("run" in line or isinstance(line.get("answer"), str)):
            raise ValueError(
                f"{path} line {number} is no answer ({raw[:60]!r}): name another --out, or remove the line"
            )
        yield line


def _check(path: Path, depends: Mapping[str, Any]) -> None:
    first = next(_lines(path), {})
    if "run" not in first:
        raise ValueError(f"{path} is no file of answers of `pvit-ext eval`: name another --out")
    there = first["run"]
    if other := [name for name in {**there, **depends} if there.get(name) != depends.get(name)]:
        said = "; ".join(f"{name} was {there.get(name)!r}, is {depends.get(name)!r}" for name in sorted(other))
        raise ValueError(f"{path} holds answers of another run ({said}): name another --out, or remove that folder")
