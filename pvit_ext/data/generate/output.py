"""What a run writes: records in the documented schema, and the jobs that could not be done."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvit_ext.data.generate.pipeline import Dead, Done, Lookup, Pipeline
from pvit_ext.data.generate.prompts import PROMPT_VERSION
from pvit_ext.data.generate.strategies import Job
from pvit_ext.files import atomic_write


@dataclass
class Written:
    """What was written.

    Args:
        records: of each strategy.
        dead: jobs of each strategy that could not be done.
        reasons: of those, in few words.
        again: what was wrong with replies that had to be asked for again, of jobs that could be done then.
    """

    records: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    again: Counter[str] = field(default_factory=Counter)


def to_record(job: Job, done: Done, model: str) -> dict[str, Any]:
    """The record of a finished job.

    Args:
        job: that was done.
        done: its turns.
        model: that wrote them.
    """
    turns = []
    for number, turn in enumerate(done.turns):
        turns.append({"from": "human", "value": turn.question if number else f"<image>\n{turn.question}"})
        turns.append({"from": "gpt", "value": turn.answer})
    generated: dict[str, Any] = {"model": model, "prompts": PROMPT_VERSION, "requests": [key[:16] for key in done.keys]}
    if done.description is not None:
        generated["description"] = done.description.description
    return {
        "id": job.name,
        "image": job.scene.image,
        "regions": [job.scene.objects[number].region for turn in done.turns for number in turn.regions],
        "conversations": turns,
        "task": job.strategy,
        "generated": generated,
    }


def write_output(
    jobs: Iterable[Job], pipeline: Pipeline, lookup: Lookup, failed: Mapping[str, str], out: Path, dead_letters: Path
) -> Written:
    """Write both files, JSON Lines in the order of the jobs; they take their names only when whole.

    Args:
        jobs: that are all finished, but for ``failed``.
        pipeline: of the run.
        lookup: of its ledger.
        failed: name of a job -> why its call had no reply.
        out: of the records.
        dead_letters: of the jobs that could not be done.

    Returns:
        what was written; where there is no record, only the dead letters were.
    """
    written = Written()
    with (
        atomic_write(dead_letters) as dead_path,
        dead_path.open("w", encoding="utf-8") as dead_file,
        suppress(_NothingToWrite),
        atomic_write(out) as path,
    ):
        with path.open("w", encoding="utf-8") as file:
            for job in jobs:
                step = pipeline.advance(job, lookup)
                if isinstance(step, Done):
                    file.write(_line(to_record(job, step, pipeline.options.model)))
                    written.records[job.strategy] += 1
                    written.again.update(_kind(problem) for problem in step.problems)
                else:
                    dead = step if isinstance(step, Dead) else Dead(failed.get(job.name, "no reply"))
                    dead_file.write(_line(_letter(job, dead)))
                    written.dead[job.strategy] += 1
                    written.reasons[_kind(dead.reason)] += 1
        if not written.records:
            raise _NothingToWrite
    return written


class _NothingToWrite(Exception):
    """No job could be done: a file of no records would be no training file."""


def _kind(problem: str) -> str:
    """A problem without what differs from one reply to the next."""
    return re.sub(r" \(.*?\)|'[^']*'|\bturn \d+: |(?<!\[R)\d+", "", problem)[:100].strip()


def _letter(job: Job, dead: Dead) -> dict[str, Any]:
    return {
        "id": job.name,
        "image": job.scene.image,
        "task": job.strategy,
        "problem": dead.reason,
        "attempts": list(dead.attempts),
    }


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value) + "\n"
