"""Answers of a checkpoint: batched, greedy, spread over the ranks."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pvit_ext.adapters.lion.tasks import Tasks
from pvit_ext.config import RegionConfig
from pvit_ext.data.records import RecordError
from pvit_ext.encoders.overlay import COLORS, Overlay
from pvit_ext.evaluation.arms import MARKS, REGIONS, TOKENS, Arm, Shown
from pvit_ext.evaluation.sample import Prediction, Sample
from pvit_ext.evaluation.task import Task
from pvit_ext.hosts.loading import load_pretrained_model
from pvit_ext.inference import ask
from pvit_ext.inference.ranks import Ranks
from pvit_ext.regions.region import RegionError
from pvit_ext.tokens.query import Query

_QUERY = re.compile(r"query (\d+)\b")
"""As asking names a question that has no other name."""
Keep = Callable[[Sequence[tuple[str, Prediction]]], None]


@dataclass(frozen=True)
class ModelOptions:
    """A checkpoint, and how it is asked.

    Args:
        path: folder or hub id.
        base: checkpoint under it, in place of the one that it names.
        batch_size: questions per ``generate``.
        max_new_tokens: of an answer.
        conv_version, system: see :func:`~pvit_ext.ask`.
        device, dtype: see :func:`~pvit_ext.load_pretrained_model`.
    """

    path: str
    base: str | None = None
    batch_size: int = 8
    max_new_tokens: int = 32
    conv_version: str | None = None
    system: str | None = None
    device: str | None = None
    dtype: str | None = None


def show(task: Task, sample: Sample, arm: Arm) -> Shown:
    """A sample as an arm shows it.

    Raises:
        RegionError: naming the sample.
    """
    given = sample.regions(), sample.history, sample.adapters, sample.tags
    query = Query(list(sample.images), task.prompt(sample), *given, literal=not sample.specs)
    return arm.show(query, sample.name)


def check_marks(task: Task, samples: Sequence[Sample], arm: Arm, config: RegionConfig | None) -> None:
    """Refuse samples with more regions on an image than marks have colours, before a model is loaded or called.

    Args:
        task: that asks.
        samples: that are asked.
        arm: that shows them.
        config: of the checkpoint's region modules; None without any.

    Raises:
        RecordError: naming all of them.
    """
    own = arm.name in TOKENS and config is not None and config.encoder == Overlay.name
    marks = Arm(MARKS, config).encoder if own else arm.encoder
    if not isinstance(marks, Overlay):
        return
    resolving, problems = Arm(REGIONS), []
    for sample in samples:
        if len(sample.specs) > len(COLORS):  # equal regions share a colour
            shown = show(task, sample, resolving)
            try:
                marks.describe(shown.regions, shown.sizes)
            except RegionError as error:
                problems.append(f"{sample.name}: {error}")
    if problems:
        raise RecordError(*problems)


def answer_all(
    task: Task, samples: Sequence[Sample], arm: Arm, options: ModelOptions, ranks: Ranks, keep: Keep
) -> None:
    """Ask this rank's share of the questions; nothing is loaded where there are none.

    Args:
        task: that asks.
        samples: without an answer, the same on all ranks.
        arm: that shows them.
        options: of the model.
        ranks: that share them.
        keep: called with the answers of each batch.

    Raises:
        RegionError: naming the sample that cannot be asked.
    """
    batches = ranks.batches(samples, options.batch_size)
    if not batches:
        return
    from tqdm import tqdm

    device = ranks.device(options.device)
    loaded = load_pretrained_model(options.path, base=options.base, device=device, dtype=options.dtype)
    arm.prepare(loaded[1])
    with tqdm(total=sum(map(len, batches)), desc=ranks.named("asking"), unit="sample", disable=ranks.rank > 0) as bar:
        for batch in batches:
            keep(_answers(task, batch, arm, options, loaded))
            bar.update(len(batch))


def _answers(
    task: Task, batch: Sequence[Sample], arm: Arm, options: ModelOptions, loaded: tuple[Any, Any, Any, int]
) -> list[tuple[str, Prediction]]:
    tokenizer, model, processor, _ = loaded
    shown = [show(task, sample, arm) for sample in batch]
    queries = [query_for(model, one.query, sample.adapters_if_known) for sample, one in zip(batch, shown, strict=True)]
    try:
        answers = ask(
            model, tokenizer, processor, queries, options.max_new_tokens, len(batch),
            options.conv_version, options.system,
        )  # fmt: skip
    except RegionError as error:
        if any(sample.name in str(error) for sample in batch):
            raise
        if (told := _QUERY.match(str(error))) is not None and int(told[1]) < len(batch):
            raise RegionError(batch[int(told[1])].name + str(error)[told.end() :]) from error
        raise RegionError(f"{error} (its queries are {', '.join(sample.name for sample in batch)})") from error
    found = zip(batch, shown, answers, strict=True)
    return [(sample.id, Prediction(answer, one.areas)) for sample, one, answer in found]


def task_of(task: str | None, task_if_known: str | None, tasks: Tasks | None) -> str | None:
    """The task that a question is asked as; None for the usual one.

    Args:
        task: that it says.
        task_if_known: takes the place of the usual one, for a model with adapters that has it.
        tasks: of the model.
    """
    return task_if_known if task is None and tasks is not None and task_if_known in tasks.names else task


def query_for(model: Any, query: Query, task_if_known: str | None) -> Query:
    """The question as a model reads it: without tags that it does not read, and of its task.

    Args:
        model: of either host.
        query: as an arm shows it.
        task_if_known: takes the place of the usual task, for a model with adapters that has it.
    """
    tasks = Tasks.of(getattr(model, "region_config", None))
    query = replace(query, task=task_of(query.task, task_if_known, tasks))
    return query.read_by(model)
