"""Answers that somebody stored, by sample id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pvit_ext.data.image_files import short
from pvit_ext.data.json_records import read_json_records
from pvit_ext.evaluation.answering import show
from pvit_ext.evaluation.arms import REGIONS, Arm
from pvit_ext.evaluation.sample import Prediction, Sample
from pvit_ext.evaluation.task import Task
from pvit_ext.regions.region import RegionError

_NAMES = {"model": "model files"}
"""What ``metrics.json`` calls what a file of answers says."""


@dataclass(frozen=True)
class Stored:
    """What a file holds.

    Args:
        answers: by sample id.
        run: what they were made with, as far as the file says it, for ``metrics.json``.
    """

    answers: dict[str, Prediction]
    run: dict[str, Any]


def stored_answers(
    task: Task, samples: Sequence[Sample], every: Sequence[Sample], path: Path, asked: Mapping[str, Any]
) -> Stored:
    """The answers of a file: the benchmark's own kind, or that of :func:`read_answers`.

    Args:
        task: that asks.
        samples: that are scored.
        every: all that the data has; answers to the others are left alone.
        path: of the file.
        asked: see :func:`read_answers`.

    Raises:
        ValueError: for samples without an answer, and, but in a benchmark's own kind of file, for answers to samples
            that do not exist.
    """
    own = task.stored_answers(path)
    stored = _read(path, asked) if own is None else Stored({id: Prediction(one) for id, one in own.items()}, {})
    if missing := [sample.id for sample in samples if sample.id not in stored.answers]:
        raise ValueError(
            f"{path} has no answer to {len(missing)} of {len(samples)} samples, such as {missing[0]!r}: give the "
            "answers to this data file, or --limit"
        )
    ids = {sample.id for sample in every}
    if not (unknown := [id for id in stored.answers if id not in ids]):
        return stored
    if own is None and len(unknown) > sum(task.left_out.values()):  # those that are left out may well have answers
        raise ValueError(
            f"{path} answers {len(unknown)} samples that the data has not, such as {unknown[0]!r}: give the data file "
            "that its answers are to, or take those lines out"
        )
    return Stored(stored.answers, {**stored.run, "answers to no sample, not scored": len(unknown)})


def read_answers(path: Path, asked: Mapping[str, Any] | None = None) -> dict[str, Prediction]:
    """The answers of a file such as ``predictions.jsonl``: JSON Lines, or an array, of ``{"id", "answer"}``.

    Args:
        path: of the file.
        asked: what its answers have to be to, as the first line of a run's own file says it; None: any.

    Raises:
        ValueError: naming the line that is none, or a second answer; or for the file of a run that asked other things.
    """
    return _read(path, asked or {}).answers


def _read(path: Path, asked: Mapping[str, Any]) -> Stored:
    found: dict[str, Prediction] = {}
    run: dict[str, Any] = {}
    of_run = False
    for one in read_json_records(path):
        line = one.value
        if isinstance(line, dict) and isinstance(line.get("run"), dict):
            _check(path, line["run"], asked)
            of_run = True
            run = {_NAMES.get(name, name): one for name, one in line["run"].items() if name not in asked}
            continue
        if not (isinstance(line, dict) and isinstance(line.get("answer"), str) and "id" in line):
            raise ValueError(f'{path} line {one.line}: expected {{"id": ..., "answer": text}}, got {str(line)[:80]}')
        answer = Prediction(line["answer"], _areas(line, f"{path} line {one.line}"))
        first = found.setdefault(str(line["id"]), answer)
        if first.answer != answer.answer and not of_run:  # of a run's own, the first counts for it too
            raise ValueError(f"{path} line {one.line}: another answer to {line['id']!r}, which has one: which counts?")
    return Stored(found, run)


def with_areas(
    task: Task, samples: Sequence[Sample], found: Mapping[str, Prediction]
) -> tuple[dict[str, Prediction], dict[str, str]]:
    """Stored answers with the areas of their regions, for the score by size; and for which these are not known.

    Args:
        task: that asks.
        samples: that are scored.
        found: their answers; of one that has areas they stay.
    """
    answers, arm = dict(found), Arm(REGIONS)
    unknown: list[str] = []
    wanting = [one for one in samples if task.by_size and one.specs and not found[one.id].areas]
    for sample in wanting:
        try:
            answers[sample.id] = replace(found[sample.id], areas=show(task, sample, arm).areas)
        except (RegionError, OSError) as error:  # answers are scored without the images, too
            unknown.append(str(error))
    return answers, {"regions of unknown size": f"of {len(unknown)} samples: {unknown[0]}"} if unknown else {}


def _areas(line: Mapping[str, Any], location: str) -> tuple[float, ...]:
    """The areas of the regions, where the line has any."""
    areas = line.get("areas") or []
    if not isinstance(areas, list) or not all(type(one) in (int, float) for one in areas):
        raise ValueError(f"{location}: areas is a list of numbers, got {short(areas)}; leave it out")
    return tuple(areas)


def _check(path: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    if differ := sorted(name for name in asked if name in there and there[name] != asked[name]):
        said = "; ".join(f"{name} was {there[name]!r}, is {asked[name]!r}" for name in differ)
        raise ValueError(
            f"{path} answers other questions ({said}): score it with the task, --data and --set it was made with"
        )
