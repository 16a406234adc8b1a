"""Answers that somebody stored, by sample id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pvit_ext.data.image_files import short
from pvit_ext.data.json_records import read_json_records
from pvit_ext.evaluation.answering import show
from pvit_ext.evaluation.arms import REGIONS, Arm
from pvit_ext.evaluation.sample import Prediction, Sample
from pvit_ext.evaluation.task import Task
from pvit_ext.regions.region import RegionError


def read_answers(path: Path, asked: Mapping[str, Any] | None = None) -> dict[str, Prediction]:
    """The answers of a file such as ``predictions.jsonl``: JSON Lines, or an array, of ``{"id", "answer"}``.

    Args:
        path: of the file.
        asked: what its answers have to be to, as the first line of a run's own file says it; None: any.

    Raises:
        ValueError: naming the line that is none, or a second answer; or for the file of a run that asked other things.
    """
    found: dict[str, Prediction] = {}
    of_run = False
    for one in read_json_records(path):
        line = one.value
        if isinstance(line, dict) and isinstance(line.get("run"), dict):
            _check(path, line["run"], asked or {})
            of_run = True
            continue
        if not (isinstance(line, dict) and isinstance(line.get("answer"), str) and "id" in line):
            raise ValueError(f'{path} line {one.line}: expected {{"id": ..., "answer": text}}, got {str(line)[:80]}')
        answer = Prediction(line["answer"], _areas(line, f"{path} line {one.line}"))
        first = found.setdefault(str(line["id"]), answer)
        if first.answer != answer.answer and not of_run:  # of a run's own, the first counts for it too
            raise ValueError(f"{path} line {one.line}: another answer to {line['id']!r}, which has one: which counts?")
    return found


def with_areas(
    task: Task, samples: Sequence[Sample], found: Mapping[str, Prediction], source: str
) -> tuple[dict[str, Prediction], dict[str, str]]:
    """Stored answers with the areas of their regions, for the score by size; and what they were made with.

    Args:
        task: that asks.
        samples: that are scored.
        found: their answers; of one that has areas they stay.
        source: file of the answers.
    """
    answers, arm = dict(found), Arm(REGIONS)
    unknown: list[str] = []
    wanting = [one for one in samples if task.by_size and one.specs and not found[one.id].areas]
    for sample in wanting:
        try:
            answers[sample.id] = replace(found[sample.id], areas=show(task, sample, arm).areas)
        except (RegionError, OSError) as error:  # answers are scored without the images, too
            unknown.append(str(error))
    told = {"regions of unknown size": f"of {len(unknown)} samples: {unknown[0]}"} if unknown else {}
    return answers, {"answers": source, **told}


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
