"""What is known about an image and its regions, between the reading of a format and the writing of records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Size = tuple[int, int]
"""(width, height) in pixels."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the upright image."""
RegionSpec = Sequence[float] | Mapping[str, Any]
"""A region as an entry of a record's ``regions``: ``[x0, y0, x1, y1]`` or an object with box, point, polygon, scribble
or mask."""
SOURCE_KEY = "source"
"""The key under which a record keeps what was known about its image."""


@dataclass(frozen=True)
class Annotation:
    """One object or region of an image.

    Args:
        region: as a record holds it; the most exact that the source has.
        box: around it, clipped to the image; None for a point or a stroke.
        label: its name, as a person would say it; empty where the source has none.
        captions: sentences or phrases about it.
        attributes: such as ``red``.
        id: the source's own number or name.
        category: the source's own name of the class, where it differs from the label.
    """

    region: RegionSpec
    box: Box | None = None
    label: str = ""
    captions: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    id: str = ""
    category: str = ""


@dataclass(frozen=True)
class Relation:
    """``subject`` stands in the relation ``predicate`` to ``object``: both index ``AnnotatedImage.objects``."""

    subject: int
    predicate: str
    object: int


@dataclass(frozen=True)
class Question:
    """A question about an image, and its answer.

    Args:
        question: text, with ``<region>`` where it points at something.
        answer: text, in which ``<region>`` may stand too.
        regions: indices in ``AnnotatedImage.objects``, one for each ``<region>`` of question, then answer.
        id: the source's own.
    """

    question: str
    answer: str
    regions: tuple[int, ...] = ()
    id: str = ""


@dataclass(frozen=True)
class Grounded:
    """A sentence about an image, some of whose phrases are objects.

    Args:
        text: plain.
        phrases: (start, end, indices in ``AnnotatedImage.objects``) of each, as characters of the text, in order.
    """

    text: str
    phrases: tuple[tuple[int, int, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class Conversation:
    """Turns that are taken over as they are.

    Args:
        turns: question and answer in turn, with ``<region>``; ``<image>`` is put before the first if none holds it.
        regions: one for each ``<region>``, in order.
        id: the source's own, empty for the image's.
    """

    turns: tuple[str, ...]
    regions: tuple[RegionSpec, ...] = ()
    id: str = ""


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and all that its source says about it.

    Args:
        image: path relative to the image folder; several for an instruction about several images.
        size: of the upright image, the first of several; None where no image was opened and the source has none.
        item: the source's own name of the image, unique in the source.
        objects: its regions.
        captions: sentences about all of it.
        relations: between objects.
        grounded: sentences whose phrases are objects.
        questions: about it or its objects.
        conversations: of instruction data.
        coco_id: COCO's number of the photograph, where its name does not say it.
    """

    image: str | tuple[str, ...]
    size: Size | None
    item: str
    objects: tuple[Annotation, ...] = ()
    captions: tuple[str, ...] = ()
    relations: tuple[Relation, ...] = ()
    grounded: tuple[Grounded, ...] = ()
    questions: tuple[Question, ...] = ()
    conversations: tuple[Conversation, ...] = ()
    coco_id: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is said about the image."""
        return not (self.objects or self.captions or self.grounded or self.questions or self.conversations)
