"""The contract of a task, and the registry of tasks.

A task is one class: where its samples come from, what is asked, how an answer is read, and what the answers are worth::

    @register_eval_task("colours")
    class Colours(Task):
        about = "colour of a region"

        def load(self): ...                    # Sample of each question, in an order that never changes
        def prompt(self, sample): ...          # the question, if it is not the sample's own
        def parse(self, sample, answer): ...   # Judged: what was said, and 0..1
        def score(self, results): ...          # Score of all of them

Offer it as an entry point of the group ``pvit_ext.eval_tasks``, or register it with :func:`register_eval_task` in a
module that ``--plugin`` imports.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from pvit_ext.data.convert.base import Setting
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.plugins import Registry
from pvit_ext.regions.region import Region

GROUP = "pvit_ext.eval_tasks"


@dataclass(frozen=True)
class Published:
    """A number that somebody else reported.

    Args:
        system: that was measured.
        metric: name of one of the task's metrics.
        value: on the scale of that metric.
        source: where it stands.
        verified: it was read there; else it is from memory or at second hand.
    """

    system: str
    metric: str
    value: float
    source: str
    verified: bool = False


@dataclass(frozen=True)
class TaskOptions:
    """What a task is made with.

    Args:
        data: its file or folder.
        image_folder: that its images lie in.
        settings: the task's own, as ``--set NAME=VALUE`` gave them.
    """

    data: Path
    image_folder: str
    settings: Mapping[str, str] = field(default_factory=dict)


class Task(ABC):
    """One benchmark; made with its data.

    Raises:
        ValueError: for a setting that the task does not know.

    Attributes:
        about: one line for the list of tasks.
        version: grows when the same answers would be scored, or the same samples asked, in another way.
        settings: what the user may choose.
        scoring: names of the settings that only the score depends on: answers that are there can be scored by others.
        by_size: the mean score by the size of regions says something.
        max_new_tokens: of an answer, unless the user says otherwise.
        published: numbers of others.
        left_out: reason -> how many of the data are no samples; filled by :meth:`load`.
    """

    about: ClassVar[str]
    version: ClassVar[int] = 1
    settings: ClassVar[Mapping[str, Setting]] = {}
    scoring: ClassVar[Collection[str]] = ()
    by_size: ClassVar[bool] = True
    max_new_tokens: ClassVar[int] = 32
    published: Sequence[Published] = ()

    def __init__(self, options: TaskOptions) -> None:
        self.options = options
        self.chosen = self._choose(options.settings)
        self.left_out: dict[str, int] = {}

    @abstractmethod
    def load(self) -> Iterable[Sample]:
        """The samples, in an order that depends on the data alone.

        Raises:
            ValueError: naming what the data lack.
        """

    def check_asking(self) -> None:  # noqa: B027  most tasks score any answer
        """Refuse, before a model is asked, settings whose score takes more than its answers.

        Raises:
            ValueError: saying what to choose.
        """

    def prompt(self, sample: Sample) -> str:
        """The question, with ``<region>`` for each of its regions."""
        return sample.question

    @abstractmethod
    def parse(self, sample: Sample, answer: str) -> Judged:
        """What an answer says, and what it is worth; called after :meth:`load` has ended."""

    @abstractmethod
    def score(self, results: Sequence[Result]) -> Score:
        """What all answers are worth.

        Raises:
            ValueError: when a metric cannot be computed here, with what is missing; none is put in its place.
        """

    def draw(self, result: Result) -> list[Region]:
        """What the report draws on the sample's images: each region once, in the order of :meth:`Sample.numbers`."""
        return result.sample.different_regions()

    def files(self) -> list[Path]:
        """The files that the samples are read from, images aside; their hash names the split."""
        return [self.options.data]

    def stored_answers(self, path: Path) -> Mapping[str, str] | None:
        """Answers in the benchmark's own file, by sample id; None where it has no form of its own.

        Raises:
            ValueError: naming what the file lacks.
        """
        return None

    def write(self, out: Path, results: Sequence[Result]) -> list[Path]:
        """Write what the task has beside the results of all tasks.

        Args:
            out: folder, which is there.
            results: of all samples.

        Returns:
            the files that people are to look at.
        """
        return []

    def asking(self) -> dict[str, str]:
        """The settings that answers depend on."""
        return {name: value for name, value in self.chosen.items() if name not in self.scoring}

    def leave_out(self, reason: str) -> None:
        """Note that something of the data is no sample."""
        self.left_out[reason] = self.left_out.get(reason, 0) + 1

    def _choose(self, given: Mapping[str, str]) -> dict[str, str]:
        for key, value in given.items():
            if (setting := self.settings.get(key)) is None:
                raise ValueError(f"there is no setting {key!r} here; known: {', '.join(self.settings) or 'none'}")
            if setting.choices is not None and value not in setting.choices:
                raise ValueError(f"--set {key} is one of {', '.join(setting.choices)}, got {value!r}")
        return {key: given.get(key, setting.default) for key, setting in self.settings.items()}


TASKS: Registry[type[Task]] = Registry("evaluation task", GROUP)

register_eval_task = TASKS.register
"""Decorator that registers a task for ``pvit-ext eval``, under its name."""
