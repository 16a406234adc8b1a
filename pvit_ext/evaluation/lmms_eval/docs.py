"""What lmms-eval calls for each document of a task that :mod:`pvit_ext.evaluation.lmms_eval.export` has written.

A document is the id of a sample; our model is shown its regions as they are, any other model as marks on the image.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pvit_ext.evaluation.arms import MARKS, REGIONS, Arm
from pvit_ext.evaluation.lmms_eval.export import METRIC
from pvit_ext.evaluation.sample import Prediction, Result, Sample
from pvit_ext.evaluation.summary import shown
from pvit_ext.evaluation.task import TASKS, Task, TaskOptions
from pvit_ext.regions.image import load_image
from pvit_ext.tokens.query import Query

Doc = Mapping[str, Any]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Meant:
    """What a sample says of itself beside its text, for our model alone.

    Args:
        task, task_if_known, tags: ``adapters``, ``adapters_if_known`` and ``tags`` of the sample.
    """

    task: str | None = None
    task_if_known: str | None = None
    tags: Any = None


def visuals(doc: Doc, kwargs: Mapping[str, Any] | None = None) -> list[Any]:
    """The images, and after them the regions where the model takes them, and what else the sample says.

    Args:
        doc: of the task.
        kwargs: ``lmms_eval_specific_kwargs`` of the model.
    """
    query, sample = _query(doc, kwargs), _sample(doc)[1]
    found = [load_image(image) for image in query.image] + list(query.regions)
    meant = Meant(sample.adapters, sample.adapters_if_known, sample.tags)
    return [*found, meant] if _is_ours(kwargs) and meant != Meant() else found


def text(doc: Doc, kwargs: Mapping[str, Any] | None = None) -> str:
    """The question, with ``<region>`` where the model takes regions."""
    return _query(doc, kwargs).text


def results(doc: Doc, answers: Sequence[str]) -> dict[str, Any]:
    """The answer, for :func:`main_metric`."""
    return {METRIC: {"task_file": doc["task_file"], "id": doc["id"], "answer": answers[0]}}


def main_metric(items: Sequence[Mapping[str, Any]]) -> float:
    """The task's main metric over all answers; the others are logged."""
    task, samples = _task(items[0]["task_file"])
    found = [(samples[one["id"]], one["answer"]) for one in items]
    score = task.score([Result(sample, Prediction(answer), task.parse(sample, answer)) for sample, answer in found])
    told = ", ".join(f"{name} {shown(value, name in score.as_they_are)}" for name, value in score.metrics.items())
    logger.info("%s: %s", task.about, told)
    return score.metrics[score.main]


def _query(doc: Doc, kwargs: Mapping[str, Any] | None) -> Query:
    task, sample = _sample(doc)
    query = Query(list(sample.images), task.prompt(sample), sample.regions())
    return query if _is_ours(kwargs) or not sample.specs else Arm(_arm(kwargs)).show(query, sample.name).query


def _arm(kwargs: Mapping[str, Any] | None) -> str:
    arm: str = (kwargs or {}).get("arm", MARKS)
    return arm


def _is_ours(kwargs: Mapping[str, Any] | None) -> bool:
    """Whether the model takes regions: it is ours."""
    return _arm(kwargs) == REGIONS


def _sample(doc: Doc) -> tuple[Task, Sample]:
    task, samples = _task(doc["task_file"])
    return task, samples[doc["id"]]


@lru_cache(maxsize=8)
def _task(task_file: str) -> tuple[Task, dict[str, Sample]]:
    told = json.loads(Path(task_file).read_text(encoding="utf-8"))
    options = TaskOptions(Path(told["data"]), told["image_folder"], told["settings"])
    task = TASKS.require(told["task"])(options)
    return task, {sample.id: sample for sample in task.load()}
