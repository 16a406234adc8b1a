"""What LION's parts ask of the records: tags that are some, tasks that the model knows, a sample for what trains."""

from __future__ import annotations

from typing import Any

from pvit_ext.adapters.lion.tasks import Tasks
from pvit_ext.config import RECORD_KEY
from pvit_ext.data.task_survey import TaskSurvey
from pvit_ext.training.arguments import ModelFlags
from pvit_ext.training.stages import is_of_lion, take_unsaid, task_of_stage, tasks_for_stage
from pvit_ext.training.start import say


def tasks_by_flags(model: Any) -> Tasks | None:
    """The tasks of the model that a run will load, by config.json and the flags; None where they say none.

    Args:
        model: :class:`~pvit_ext.training.arguments.ModelFlags`.

    Raises:
        ValueError: for flags that contradict what is there.
    """
    try:
        return Tasks.of(ModelFlags.region_config(model, model.stored_config()))
    except OSError:  # loading says what is missing
        return None


def check_tasks(tasks: Tasks | None, data: Any, training: Any) -> None:
    """Refuse records for what a stage trains, before minutes go into loading the model.

    Args:
        tasks: of the model.
        data: :class:`~pvit_ext.training.arguments.DataFlags` whose records have been read.
        training: :class:`~pvit_ext.training.arguments.TrainingFlags`.

    Raises:
        RecordError: for records of tasks that the model does not know, with all of them.
        ValueError: for a stage of LION that has no record of a task that it trains.
    """
    stage, (records, bad) = training.stage, data.read
    if tasks is None:
        return
    survey = TaskSurvey.of(records, tasks_for_stage(tasks, stage) if is_of_lion(stage) else tasks)
    bad.add(*survey.bad)
    if is_of_lion(stage) and not training.allow_no_gradient:
        _check_counts(survey, stage)


def _check_counts(survey: TaskSurvey, stage: str) -> None:
    only = task_of_stage(stage)
    missing = [name for name, count in survey.counts.items() if not count and only in (name, None)]
    if not missing or survey.by_question:  # the router may send records to any task
        return
    others = ", ".join(f"{count:,} are {name}" for name, count in survey.counts.items() if count) or "all are bad"
    raise ValueError(
        f"--stage {stage}: no record is of the task {' or '.join(missing)} ({others}), and its adapters would learn "
        f'nothing: give records of it, which may say so by "{RECORD_KEY}": "{missing[0]}", take the stage of another '
        "task, or train the rest of the stage alone with --allow_no_gradient True"
    )


def prepare_data(dataset: Any, data: Any, stage: str) -> None:
    """Let a dataset read tasks and tags of its records, where its model does, and say what it found of them.

    Args:
        dataset: :class:`~pvit_ext.data.record_dataset.RecordDataset` that knows its model.
        data: :class:`~pvit_ext.training.arguments.DataFlags`.
        stage: that :func:`~pvit_ext.training.stages.freeze_for_stage` accepted.

    Raises:
        RecordError: with all records of unknown tasks, wrong tags or ``<hint>`` in an answer, if there are too many.
        ValueError: for flags and records that do not go with the model.
    """
    take_unsaid(dataset, stage)
    with dataset.bad_records.together():
        sentences = dataset.use_tasks(), dataset.use_tags(data.tag_noise)
    for sentence in sentences:
        if sentence is not None:
            say(sentence)
