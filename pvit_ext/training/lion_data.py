"""What LION's parts ask of the records: tags that are some, tasks that the model knows, a sample for what trains."""

from __future__ import annotations

from typing import Any

from pvit_ext.adapters.lion.tasks import Tasks
from pvit_ext.config import RECORD_KEY, RegionConfig
from pvit_ext.data.record_dataset import check_tag_flags
from pvit_ext.data.tags.tags import HINT_STYLE
from pvit_ext.data.task_survey import TaskSurvey
from pvit_ext.training.arguments import ModelFlags
from pvit_ext.training.stages import is_of_lion, looks_closer, take_unsaid, task_of_stage, tasks_for_stage
from pvit_ext.training.start import say


def config_by_flags(model: Any) -> RegionConfig | None:
    """The region modules of the model that a run will load, by config.json and the flags; None without a config.json.

    Args:
        model: :class:`~pvit_ext.training.arguments.ModelFlags`.

    Raises:
        ValueError: for flags that contradict what is there, or each other.
    """
    try:
        base = model.base_config()
        config = ModelFlags.region_config(model, model.stored_config())
    except OSError:  # loading says what is missing
        return None
    config = config if base is None else config.continuing(base)
    config.check_lion()
    return config


def check_lion(config: RegionConfig | None, data: Any, training: Any) -> None:
    """Refuse records for what a stage trains or the model reads, before minutes go into loading the model.

    Args:
        config: of the model's region modules; None where it is not known yet.
        data: :class:`~pvit_ext.training.arguments.DataFlags` whose records have been read.
        training: :class:`~pvit_ext.training.arguments.TrainingFlags`.

    Raises:
        RecordError: for records of tasks that the model does not know, with all of them.
        ValueError: for a stage of LION without adapters, or without a record of a task that it trains, and for tags
            that the model does not read, or that no record has.
    """
    if config is None:
        return
    stage, tasks = training.stage, Tasks.of(config)
    tasks = tasks_for_stage(tasks, stage) if is_of_lion(stage) else tasks
    if tasks is not None:
        _check_tasks(tasks, config, data, training)
    check_tag_flags(config.lion_tags, data.tag_noise, data.read[0])


def _check_tasks(tasks: Tasks, config: RegionConfig, data: Any, training: Any) -> None:
    stage, (records, bad) = training.stage, data.read
    survey = TaskSurvey.of(records, tasks)
    bad.add(*survey.bad)
    if is_of_lion(stage) and not training.allow_no_gradient:
        closer = looks_closer(stage) and bool(config.lion_aggregator or records.summary.regions)
        _check_counts(survey, stage, closer or config.lion_tags == HINT_STYLE)


def _check_counts(survey: TaskSurvey, stage: str, rest: bool) -> None:
    """Refuse records without one of a task that a stage trains; ``rest``: whether its other parts learn from them."""
    only = task_of_stage(stage)
    missing = [name for name, count in survey.counts.items() if not count and only in (name, None)]
    if not missing or survey.by_question:  # the router may send records to any task
        return
    others = ", ".join(f"{count:,} are {name}" for name, count in survey.counts.items() if count) or "all are bad"
    cures = [
        f'give records of it, which may say so by "{RECORD_KEY}": "{missing[0]}"',
        "take the stage of another task",
    ]
    if rest if only else any(survey.counts.values()):
        cures.append("train the rest of the stage alone with --allow_no_gradient True")
    raise ValueError(
        f"--stage {stage}: no record is of the task {' or '.join(missing)} ({others}), and its adapters would learn "
        f"nothing: {', '.join(cures[:-1])}, or {cures[-1]}"
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
