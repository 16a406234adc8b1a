"""What the page sends: a picture and the turns of a conversation, with regions in the schema of data files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pvit_ext.data.region_fields import parse_region
from pvit_ext.prompt import hint_of_tags
from pvit_ext.regions.mask import PendingMask
from pvit_ext.regions.region import Region, RegionError, Size
from pvit_ext.serving.demo.hints import Hints
from pvit_ext.serving.demo.pictures import Picture, Pictures
from pvit_ext.tokens.query import Query


@dataclass(frozen=True)
class Turn:
    """A question, and its answer where there is one.

    Args:
        question: with one ``<region>`` for each region.
        shapes: the regions as they stand in a data file.
        answer: "" for a question that is not answered yet.
        corrected: whether a person wrote the answer anew.
        numbers: of the regions on the page; () where they have none but their place in the question.
    """

    question: str
    shapes: Sequence[Any] = field(default_factory=tuple)
    answer: str = ""
    corrected: bool = False
    numbers: Sequence[int] = ()


@dataclass(frozen=True)
class Talk:
    """A conversation about a picture.

    Args:
        picture: that was opened.
        turns: one or more.
        task: that the user chose, of a model that has several.
        tags: of the picture, for a model that reads them.
    """

    picture: Picture
    turns: tuple[Turn, ...]
    task: str | None = None
    tags: tuple[str, ...] | None = None

    @property
    def shapes(self) -> list[Any]:
        """The regions of all turns, in order."""
        return [shape for turn in self.turns for shape in turn.shapes]

    def regions(self) -> list[Region]:
        """The regions of all turns, checked against the picture.

        Raises:
            RegionError: naming the region, as the question counts it.
        """
        names = [f"region {number}" for number in range(1, len(self.shapes) + 1)]
        return [read_region(shape, name, self.picture.size) for shape, name in zip(self.shapes, names, strict=True)]

    def query(self) -> Query:
        """The last turn as a question, those before it as its history."""
        last = self.turns[-1].question
        return Query(str(self.picture.file), last, self.regions(), self.history, self.task, self.tags)

    @property
    def history(self) -> list[tuple[str, str]]:
        """The turns before the last."""
        return [(turn.question, turn.answer) for turn in self.turns[:-1]]


def read_region(shape: Any, name: str, size: Size) -> Region:
    """A region of a request, checked against its picture.

    Args:
        shape: as in a data file; a mask as run lengths.
        name: of it, for messages.
        size: (width, height) of the picture.

    Raises:
        RegionError: saying what is wrong.
    """
    try:
        spec = parse_region(shape, name, None)
    except RegionError:
        raise
    except ValueError as error:
        raise RegionError(str(error)) from error
    if isinstance(spec, PendingMask):
        if isinstance(spec.source, str):
            raise RegionError(f"{name}: a mask is sent as run lengths, not as the path of a file")
        spec = spec.load(None, name)
    if spec.normalized:
        raise RegionError(f"{name}: regions of the page are in pixels of the picture, not fractions of it")
    spec.resolve(size, name)
    return spec


def read_talk(value: Any, pictures: Pictures, hints: Hints) -> Talk:
    """What the page sent.

    Args:
        value: ``{"picture": key, "turns": [{"question", "regions", "numbers", "answer"}]}``; numbers may be missing.
            ``"task"`` and ``"tags"`` may be there.
        pictures: that were opened.
        hints: what the model reads beside questions.

    Raises:
        ValueError: saying what is wrong.
    """
    if not isinstance(value, dict):
        raise ValueError("a request is a JSON object with picture and turns")
    picture = pictures.get(value.get("picture"))
    turns = value.get("turns")
    if not isinstance(turns, list) or not turns:
        raise ValueError("turns is a list of one or more questions")
    return Talk(picture, tuple(_turn(turn, number) for number, turn in enumerate(turns, 1)), *hints.read(value))


def _turn(value: Any, number: int) -> Turn:
    if not isinstance(value, dict):
        raise ValueError(f"turn {number} is a JSON object with question and regions")
    question, shapes, answer = value.get("question"), value.get("regions") or [], value.get("answer") or ""
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"turn {number} has no question; write one")
    if not isinstance(shapes, list) or not isinstance(answer, str):
        raise ValueError(f"turn {number}: regions is a list, and answer is text")
    if (wanted := question.count("<region>")) != len(shapes):
        raise ValueError(
            f"turn {number}: {wanted} <region> in its question but {len(shapes)} regions{hint_of_tags([question])}"
        )
    named = tuple({"box": shape} if isinstance(shape, list) else shape for shape in shapes)
    return Turn(question, named, answer, bool(value.get("corrected")), _numbers(value, number, len(shapes)))


def _numbers(turn: dict[str, Any], number: int, count: int) -> tuple[int, ...]:
    given = turn.get("numbers")
    if given is None:
        return ()
    if not isinstance(given, list) or len(given) != count or not all(type(one) is int and one > 0 for one in given):
        raise ValueError(f"turn {number}: numbers is a list of one whole number from 1 for each region")
    return tuple(given)
