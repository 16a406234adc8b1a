"""Answers of a run, in a file that is only appended to: it can be stopped at any time, and goes on where it stood.

The first line says what the answers depend on; each further one is a question's: ``{"id": ..., "answer": ..., ...}``.
Ranks beside the first write files of their own, which the first one takes in at the beginning and at the end of a run,
so that any number of ranks may go on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from glob import escape
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, ClassVar

from pvit_ext.files import atomic_write, lock

_HEAD = b'{"run": '
"""How every file of answers begins."""


class AnswerFile:
    """A file of answers; as a context manager it is used by one run at a time.

    Args:
        path: its folder is made if it is missing.
        depends: what the answers depend on, in plain JSON types.
        rank: of this process.

    Attributes:
        made_by: the command whose file it is, for messages.
        other: what to do where the file cannot be used.
    """

    made_by: ClassVar[str] = "pvit-ext ask"
    other: ClassVar[str] = "name another --out, or remove that file"

    def __init__(self, path: Path, depends: Mapping[str, Any], rank: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.main, self.depends = path, dict(depends)
        self.path = path if rank == 0 else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")
        self._lock: BinaryIO | None = None

    def __enter__(self) -> Any:
        """Take the file.

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

        A file without an answer, of a run that failed before its first, is nobody's: it is started anew.

        Raises:
            ValueError: for a file of something else, or when the answers that are there depend on something else.
        """
        self._repair(self.main)
        if not self.main.exists() or _without_answers(self.main):
            self.main.open("wb").close()  # in place: the lock is on this file
            _append(self.main, [{"run": self.depends}])
        found = self.lines()
        for path in sorted(self.main.parent.glob(f"{escape(self.main.stem)}.rank*{escape(self.main.suffix)}")):
            self._repair(path)
            if not _without_answers(path):
                self._check(path)
            _append(self.main, [line for line in _lines(path) if "run" not in line and line["id"] not in found])
            path.unlink()

    def lines(self) -> dict[str, dict[str, Any]]:
        """The answers that are there, by id; of a question's first and second answer, the first.

        Raises:
            ValueError: when they depend on something else.
        """
        self._check(self.main)
        found: dict[str, dict[str, Any]] = {}
        for line in _lines(self.main):
            if "run" not in line:
                found.setdefault(line["id"], line)
        return found

    def append(self, answers: Iterable[Mapping[str, Any]]) -> None:
        """Keep answers; they are on the disk when this returns."""
        head: list[Mapping[str, Any]] = [] if self.path.exists() else [{"run": self.depends}]
        _append(self.path, [*head, *answers])

    def arrange(self, ids: Iterable[str]) -> None:
        """Write the answers anew in this order, that of others behind it; for rank 0, when all is there.

        Args:
            ids: of questions, some of which may have no answer.
        """
        found = self.lines()
        order = [*(one for one in ids if one in found), *found]
        with atomic_write(self.main) as path:
            _append(path, [{"run": self.depends}, *(found[one] for one in dict.fromkeys(order))])

    def _repair(self, path: Path) -> None:
        """Cut off what a killed run wrote last, if that is no whole line: it is asked again."""
        if path.exists() and not (raw := path.read_bytes()).endswith(b"\n"):
            if not raw.startswith(_HEAD[: len(raw)]):  # a whole file may end without a line break
                raise self._is_another(path)
            os.truncate(path, raw.rfind(b"\n") + 1)

    def _is_another(self, path: Path) -> ValueError:
        return ValueError(f"{path} is no file of answers of `{self.made_by}`: name another --out")

    def _check(self, path: Path) -> None:
        first = next(_lines(path), {})
        if "run" not in first:
            raise self._is_another(path)
        there, depends = first["run"], self.depends
        if differ := [name for name in {**there, **depends} if there.get(name) != depends.get(name)]:
            said = "; ".join(f"{name} was {there.get(name)!r}, is {depends.get(name)!r}" for name in sorted(differ))
            raise ValueError(f"{path} holds answers of another run ({said}): {self.other}")


def _without_answers(path: Path) -> bool:
    """Whether a file is empty, or holds the first line of a run alone."""
    with path.open("rb") as file:
        head, rest = file.readline(), file.read(1)
    if rest or not head.startswith(_HEAD):
        return not head
    try:
        line = json.loads(head)
    except ValueError:
        return False
    return isinstance(line, dict) and line.keys() == {"run"}


def _append(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with path.open("ab") as file:
        file.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())


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
