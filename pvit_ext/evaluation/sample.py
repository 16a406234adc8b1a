"""What a task asks, and what becomes of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pvit_ext.data.records import Record
from pvit_ext.data.schema import Spec
from pvit_ext.regions.region import Region


@dataclass(frozen=True)
class Sample:
    """One question with its reference.

    Args:
        id: no other sample of the task has it; answers are kept under it.
        images: paths.
        question: with one ``<region>`` for each region that is not in ``history``.
        reference: the right answer, as the task compares it.
        specs: regions, or masks that are still to be read, in the order of their placeholders, those of ``history``
            first.
        folder: where mask files are looked for.
        history: earlier turns as (question, answer).
        location: file, line and id, for messages.
        extra: what else the task needs for its score; plain JSON types.
        adapters: the task that a model with adapters by task takes it for; None for the usual one.
        tags: of the images, for a model that reads them.
        adapters_if_known: the task that takes the place of the usual one, for a model that has it.
    """

    id: str
    images: tuple[str, ...]
    question: str
    reference: str
    specs: tuple[Spec, ...] = ()
    folder: str | None = None
    history: tuple[tuple[str, str], ...] = ()
    location: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    adapters: str | None = None
    tags: Any = None
    adapters_if_known: str | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return self.location or self.id

    def regions(self) -> list[Region]:
        """The regions; masks are read now.

        Raises:
            RegionError: for a mask that cannot be read.
        """
        return Record({}, self.specs, self.name, self.folder).regions

    def numbers(self) -> list[int]:
        """For each placeholder the number of its region, from 1; a question may name one region several times."""
        first: dict[int, int] = {}
        return [first.setdefault(id(spec), len(first) + 1) for spec in self.specs]

    def different_regions(self) -> list[Region]:
        """The regions by their numbers."""
        different = tuple({id(spec): spec for spec in self.specs}.values())
        return Record({}, different, self.name, self.folder).regions


@dataclass(frozen=True)
class Prediction:
    """An answer, with what a score by size needs.

    Args:
        answer: as the model gave it.
        areas: of each region, pixels of its image.
    """

    answer: str
    areas: tuple[float, ...] = ()


@dataclass(frozen=True)
class Judged:
    """What a task made of one answer.

    Args:
        said: the answer as the task read it, such as a class or a letter; None where it could not.
        score: 1 for right, 0 for wrong, or between; a benchmark may go below. Its mean need not be the task's metric.
    """

    said: str | None
    score: float


@dataclass(frozen=True)
class Result:
    """A sample with its answer."""

    sample: Sample
    prediction: Prediction
    judged: Judged


@dataclass(frozen=True)
class Confusion:
    """How often each reference was answered by each class.

    Args:
        rows: references.
        columns: the same classes, and last what is none of them.
        counts: of each row and column.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    counts: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Score:
    """What a task measured.

    Args:
        main: name of the metric by which models are compared.
        metrics: name -> value, in the order of the table; fractions, shown in percent.
        groups: name of a grouping -> group -> (value of the main metric, number of samples).
        confusion: of classes, where there are any.
        notes: how it was measured, a sentence each.
        as_they_are: names of metrics that are no fractions.
        each: the score of each result, in place of what ``parse`` gave, where it takes all answers to know it.
    """

    main: str
    metrics: Mapping[str, float]
    groups: Mapping[str, Mapping[str, tuple[float, int]]] = field(default_factory=dict)
    confusion: Confusion | None = None
    notes: Sequence[str] = ()
    as_they_are: Collection[str] = ()
    each: Sequence[float] = ()
