"""The contract of a task, and the registry of tasks.

A task is made without arguments, and sent to the workers::

    @register_data_task("material")
    class Material(Task):
        name = "material"
        about = "what an object is made of"
        needs = "objects with attributes"

        def turns(self, image, context):
            for place, item in enumerate(image.objects):
                if "wooden" in item.attributes:
                    yield Turn(context.choice.of(QUESTIONS, place), "Wood.", (place,))

Offer it as an entry point of the group ``pvit_ext.data_tasks``, or register it in a module that ``--plugin`` imports.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage, RegionSpec
from pvit_ext.data.tasks.box_text import BoxText
from pvit_ext.data.tasks.choice import Choice
from pvit_ext.plugins import Registry
from pvit_ext.prompt import REGION_PLACEHOLDER

GROUP = "pvit_ext.data_tasks"
_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Args:
        question: text, with ``<region>`` for each region.
        answer: text.
        objects: indices in ``AnnotatedImage.objects``, one for each ``<region>`` of question, then answer.
    """

    question: str
    answer: str
    objects: tuple[int, ...] = ()


@dataclass(frozen=True)
class Dialogue:
    """The turns of one record.

    Args:
        texts: question and answer in turn; ``<image>`` is put before the first if none holds it.
        objects: see :class:`Turn`.
        regions: in place of ``objects``, where they are not the image's objects.
        name: behind the image's in the record's id; empty for a number.
    """

    texts: tuple[str, ...]
    objects: tuple[int, ...] = ()
    regions: tuple[RegionSpec, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Context:
    """What a task may know and use beside the image.

    Args:
        choice: for templates and whatever else is chosen.
        turns: in one record at most, 0 for no limit.
        closed: each label is one of a list of classes that exclude each other.
        complete: every object of those classes in the image is among its ``objects``.
        classes: that list, empty where it is not known.
        negatives: also ask about what is not there.
        box_text: how boxes are written in an answer.
    """

    choice: Choice
    turns: int = 10
    closed: bool = False
    complete: bool = False
    classes: tuple[str, ...] = ()
    negatives: bool = False
    box_text: BoxText = BoxText.FRACTIONS


class Task(ABC):
    """Asks about an image; made without arguments, and picklable.

    Attributes:
        name: of ``--task``.
        about: what it asks, in one line.
        needs: what a source must have, as the end of "it needs ...".
        version: grows when its templates change.
        heeds: which of ``negatives`` and ``box_text`` of its :class:`Context` it uses.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    needs: ClassVar[str]
    version: ClassVar[int] = 1
    heeds: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def turns(self, image: AnnotatedImage, context: Context) -> Iterator[Turn]:
        """The questions about an image, in order; none where it gives nothing to ask.

        Args:
            image: what is known.
            context: what else.
        """

    def dialogues(self, image: AnnotatedImage, context: Context) -> Iterator[Dialogue]:
        """The questions as records: so many in each as ``context.turns`` allows."""
        yield from in_records(list(self.turns(image, context)), context.turns)

    def fields(self, context: Context) -> Mapping[str, Any]:
        """Further keys of each record."""
        return {}


def in_records(turns: Sequence[Turn], limit: int) -> Iterator[Dialogue]:
    """Turns as dialogues of at most ``limit`` turns, 0 for no limit."""
    step = limit or max(len(turns), 1)
    for start in range(0, len(turns), step):
        part = turns[start : start + step]
        yield Dialogue(
            tuple(text for turn in part for text in (turn.question, turn.answer)),
            tuple(index for turn in part for index in turn.objects),
        )


def fill(template: str, **values: str) -> str:
    """A template with its ``{fields}`` replaced, whatever stands in the values."""
    return _FIELD.sub(lambda field: values[field[1]], template)


def listed(count: int, word: str) -> str:
    """So many ``<region>`` as a list: ``<region>, <region> and <region>``.

    Args:
        count: one or more.
        word: before the last.
    """
    names = [REGION_PLACEHOLDER] * count
    return f"{', '.join(names[:-1])} {word} {names[-1]}" if count > 1 else names[0]


TASKS: Registry[type[Task]] = Registry("task", GROUP)

register_data_task = TASKS.register
"""Decorator that registers a task for ``pvit-ext data convert --task``, under its name."""
