"""Loss and accuracy on records that a run does not train on, measured without any change to its training."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.records import Records
from pvit_ext.data.tags.noise import TagNoise
from pvit_ext.evaluation.measures import mean_score
from pvit_ext.evaluation.sample import Prediction, Result, Sample
from pvit_ext.evaluation.task import TaskOptions
from pvit_ext.evaluation.tasks.own import Own
from pvit_ext.inference import ask
from pvit_ext.tokens.query import Query
from pvit_ext.training.best import PREFIX

_IGNORE_INDEX = -100


class HeldOut:
    """Held-out records of a trainer.

    Every process measures all of them: with ZeRO-3 they gather each layer together, else they would wait anyway.

    Args:
        trainer: before it trains.
        records: of ``--region_eval_data``.

    Attributes:
        samples: the questions that accuracy counts; none where an answer is no class.

    Raises:
        RecordError: with all records whose task, tags or ``<hint>`` the model cannot take.
        ValueError: when accuracy decides about the best checkpoint, but cannot be measured.
    """

    def __init__(self, trainer: Any, records: Records) -> None:
        self.trainer = trainer
        self.count = min(len(records), trainer.args.region_eval_records or len(records))
        self.dataset = _dataset(trainer.train_dataset, records.first(self.count))
        folder = trainer.train_dataset.data_args.image_folder
        self.task = Own(TaskOptions(Path(trainer.args.region_eval_data), folder))
        self.samples = self._samples()

    def _samples(self) -> list[Sample]:
        try:
            samples = list(self.task.load())
        except ValueError as error:
            wanted = self.trainer.args.metric_for_best_model
            if wanted is not None and wanted.removeprefix(PREFIX) == "accuracy":
                raise ValueError(f"--metric_for_best_model {wanted}: {error}") from error
            self.trainer.say(f"held-out records have a loss, but no accuracy: {error}")
            return []
        return [sample for sample in samples if int(sample.id.partition(".")[0]) < self.count]

    def measure(self) -> dict[str, float]:
        """Mean loss per answer token, and the fraction of questions that are answered right."""
        model = self.trainer.model
        base = getattr(model, "get_base_model", lambda: model)()  # peft's adapters stay in its layers
        with answering(base), _without_stored_maps(base), self.trainer.accelerator.autocast():
            measures = {f"{PREFIX}loss": self._loss(model)}
            if self.samples:
                measures[f"{PREFIX}accuracy"] = self._accuracy(base)
        return measures

    def _loss(self, model: Any) -> float:
        trainer, size = self.trainer, self.trainer.args.per_device_eval_batch_size
        total, tokens = 0.0, 0
        for start in range(0, self.count, size):
            items = [self.dataset[number] for number in range(start, min(start + size, self.count))]
            batch = trainer.data_collator(items)
            learned = int((batch["labels"][:, 1:] != _IGNORE_INDEX).sum())  # of (B, L); nothing predicts the first
            with torch.no_grad():
                total += float(model(**trainer._prepare_inputs(batch)).loss) * learned
            tokens += learned
        return total / tokens

    def _accuracy(self, model: Any) -> float:
        data, batch = self.dataset, self.trainer.args.per_device_eval_batch_size
        queries = [as_trained(query_of(sample), model, data) for sample in self.samples]
        tokens = self.task.max_new_tokens
        answers = ask(model, data.tokenizer, data.data_args.image_processor, queries, tokens, batch)
        pairs = zip(self.samples, answers, strict=True)
        return mean_score([Result(one, Prediction(said), self.task.parse(one, said)) for one, said in pairs])


def query_of(sample: Sample) -> Query:
    """A question of the own-set task, as ``pvit-ext eval own`` asks it."""
    return Query(list(sample.images), sample.question, sample.regions(), sample.history, sample.adapters, sample.tags)


def as_trained(query: Query, model: Any, dataset: Any) -> Query:
    """A question for a model in training: without tags that it does not read, of the task that its stage trains.

    Args:
        query: of a record.
        model: that trains.
        dataset: of the training, which knows the tasks.
    """
    tasks = dataset.region_processor.tasks
    return replace(query.read_by(model), task=query.task if tasks is None else tasks.said(query.task))


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """Evaluation mode that leaves training's random numbers alone."""
    training = model.training
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        model.eval()
        try:
            yield
        finally:
            model.train(training)


@contextmanager
def _without_stored_maps(model: Any) -> Iterator[None]:
    """Take stored maps away: ``--region_cache`` has those of the training images alone."""
    encoder: Any = getattr(model.region_module, "region_encoder", None)
    if (stored := getattr(encoder, "stored_maps", None)) is None:
        yield
        return
    encoder.stored_maps = None
    try:
        yield
    finally:
        encoder.stored_maps = stored


def _dataset(training: Any, records: Records) -> Any:
    """The training's dataset over other records: no region is moved, no tag changed, and a bad record is an error.

    Raises:
        RecordError: with all records whose task, tags or ``<hint>`` the model cannot take.
    """
    dataset = copy.copy(training)
    dataset.records, dataset.bad_records = records, BadRecords(0)
    dataset.data_args = copy.copy(training.data_args)
    dataset.data_args.region_jitter = 0.0
    dataset.tag_noise = TagNoise()
    dataset.use_stored(None, None)
    with dataset.bad_records.together():
        dataset.use_tasks()
        if dataset.region_processor.tag_style is not None:
            dataset.survey_tags()
    return dataset
