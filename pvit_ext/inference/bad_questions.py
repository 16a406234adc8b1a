"""Questions that cannot be asked: listed beside the answers, and tried again by the next run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pvit_ext.adapters.lion.tasks import Tasks
from pvit_ext.data.records import SHOWN_PROBLEMS, RecordError
from pvit_ext.data.scan import BadRecord
from pvit_ext.files import atomic_write
from pvit_ext.inference.questions import Question
from pvit_ext.regions.region import RegionError

T = TypeVar("T")
SUFFIX = ".bad.jsonl"


class BadQuestions:
    """The list of a run's bad questions, ``ANSWERS.jsonl.bad.jsonl``; its ranks append to one file.

    Args:
        out: the file of answers.
    """

    def __init__(self, out: Path) -> None:
        self.path = out.with_name(out.name + SUFFIX)

    def start(self, found: Iterable[BadRecord]) -> None:
        """Begin the list of a run with what was found before it; no list where nothing was."""
        self.path.unlink(missing_ok=True)
        if lines := [_line(one) for one in found]:
            with atomic_write(self.path) as path:
                path.write_bytes(b"".join(lines))

    def add(self, one: BadRecord) -> None:
        """Take note of another one; a line this short is appended at once, whoever else appends."""
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, _line(one))
            os.fsync(handle)
        finally:
            os.close(handle)

    def problems(self) -> list[str]:
        """What is wrong with each."""
        if not self.path.exists():
            return []
        return [json.loads(line)["problem"] for line in self.path.read_text(encoding="utf-8").splitlines()]


def check_bad(bad: Sequence[BadRecord], questions: Sequence[Any], limit: int) -> None:
    """Refuse a run with too many bad questions, or without a good one, before a model is loaded.

    Raises:
        RecordError: with the list.
    """
    if len(bad) > limit or not questions:
        raise RecordError(*(one.problem for one in bad), advice=f", --max_bad_records allows {limit}")


def without_unknown_tasks(questions: Sequence[Question], tasks: Tasks | None) -> tuple[list[Question], list[BadRecord]]:
    """The questions whose task a model knows, and what is wrong with the others.

    Args:
        questions: of a run.
        tasks: of the model; one without adapters by task takes no notice.
    """
    if tasks is None:
        return list(questions), []
    bad: dict[str, BadRecord] = {}
    for one in questions:
        try:
            tasks.number(one.task, bool(one.specs), one.location)
        except ValueError as error:
            bad[one.id] = BadRecord(one.location, str(error))
    return [one for one in questions if one.id not in bad], list(bad.values())


def made_or_listed(
    batch: Sequence[Question], make: Callable[[Sequence[Question]], list[T]], listed: BadQuestions
) -> list[T]:
    """What is made of a batch of questions; where that fails, of each alone, and those that are bad are listed.

    Args:
        batch: of questions.
        make: from questions, one or several; a RegionError of one alone says what is wrong with it.
        listed: for these.
    """
    try:
        return make(batch)
    except RegionError as error:
        if len(batch) > 1:
            return [made for one in batch for made in made_or_listed([one], make, listed)]
        (bad,) = batch
        told = str(error).replace("query 0", bad.location)
        listed.add(BadRecord(bad.location, told if bad.location in told else f"{bad.location}: {told}"))
        return []


def said_of(problems: Sequence[str], listed: Path) -> str:
    """The problems of a list for a terminal, the first of many."""
    more = len(problems) - SHOWN_PROBLEMS
    shown = "\n".join(problems[:SHOWN_PROBLEMS]) + (f"\n... and {more} more" if more > 0 else "")
    return f"{len(problems)} bad questions, in {listed}:\n{shown}"


def _line(one: BadRecord) -> bytes:
    return json.dumps({"record": one.location, "problem": one.problem}).encode() + b"\n"
