"""Instruction data: a conversation an item, whose texts name its regions by tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Conversation, Grounded, RegionSpec
from pvit_ext.data.convert.fields import clean, kept, short, take
from pvit_ext.data.convert.json_items import JsonItems, Unit
from pvit_ext.data.convert.marks import Said, Spoken, compose, spoken
from pvit_ext.data.convert.notes import BadItem, Notes, Reason

_UNWRITTEN = "boxes in answers, left out of their text"
_PRONOUNS = frozenset("he her him it one she that them these they this those".split())
"""No names: of these a phrase that stands for an object makes no caption."""
_HUMAN, _MODEL, _SYSTEM = ("human", "user"), ("gpt", "assistant"), "system"


class ChatItems(JsonItems):
    """Items are named by their number in the file: the ids of such data are often missing, or occur twice."""

    def read(self, unit: Unit, notes: Notes) -> Iterator[AnnotatedImage]:
        """The images of an item; see :meth:`JsonItems.read`."""
        for image in super().read(unit, notes):
            yield replace(image, item=str(unit[3]))


def turns_of(item: Mapping[str, Any], notes: Notes, key: str = "conversations") -> list[str]:
    """What is said, question and answer in turn; empty where nothing is.

    Args:
        item: of LLaVA's kind (``from`` and ``value``) or OpenAI's (``role`` and ``content``).
        notes: counts system messages, which are left out.
        key: of the turns.

    Raises:
        BadItem: for turns of another kind or order.
    """
    turns: list[str] = []
    for number, turn in enumerate(take(item, key, list)):
        kept(turn, f"{key}[{number}]", dict)
        speaker = turn.get("from", turn.get("role"))
        text = kept(turn.get("value", turn.get("content")), f"the text of {key}[{number}]", str)
        if speaker == _SYSTEM and not turns:
            notes.count("system messages left out")
            continue
        wanted = _MODEL if len(turns) % 2 else _HUMAN
        if speaker not in wanted:
            raise BadItem(f"{key}[{number}] is from {short(speaker)}; expected {' or '.join(wanted)}")
        turns.append(text)
    if len(turns) % 2:
        raise BadItem(f"{key} ends with a question, there is no answer")
    return turns


def images_named(item: Mapping[str, Any]) -> list[str]:
    """The paths under ``image`` or ``images``: text, or a list of texts or of objects with a ``path``; [] for none.

    Raises:
        BadItem: for anything else.
    """
    named = kept(item.get("image") or item.get("images") or [], "image", str, list)
    paths = [named] if isinstance(named, str) else named
    return [kept(one.get("path") if isinstance(one, dict) else one, "an image", str) for one in paths]


def is_single(paths: Sequence[str], questions: int, location: str, notes: Notes) -> bool:
    """Whether there is one image, on which all boxes lie; else a note says what there is.

    Args:
        paths: of an item's images.
        questions: that are dropped with it.
        location: file and line.
        notes: takes the reason.
    """
    if len(paths) > 1:
        notes.drop(Reason.INCOMPLETE, location, "its boxes name none of several images", max(questions, 1))
    elif not paths:
        notes.drop(Reason.NO_IMAGE, location, "no image", max(questions, 1))
    return len(paths) == 1


def conversation(
    turns: Sequence[Said], regions: Sequence[Annotation | Reason], location: str, notes: Notes, name: str = ""
) -> Conversation | None:
    """A conversation that names regions in questions and answers alike; None with a note where one is of no use.

    Args:
        turns: question and answer in turn; keys are indices in ``regions``.
        regions: of the item.
        location: file and line.
        notes: takes the reason.
        name: the source's own id.
    """
    if not turns:
        notes.drop(Reason.NO_LABELS, location, "a conversation without a turn")
    texts, keys = compose(turns)
    specs: list[RegionSpec] = []
    for key in keys:
        found = regions[key]
        if isinstance(found, Reason):
            notes.drop(found, location, f"region {key + 1} of its conversation", len(turns) // 2)
            return None
        specs.append(found.region)
    return Conversation(texts, tuple(specs), name) if texts else None


@dataclass(frozen=True)
class Answered:
    """What a conversation with boxes in its answers says.

    Args:
        conversation: in words; None where nothing is to be said without boxes.
        objects: what answers give boxes of, with the phrase that names one alone as caption.
        grounded: answers with phrases that stand for objects, by their indices.
    """

    conversation: Conversation | None
    objects: tuple[Annotation, ...]
    grounded: tuple[Grounded, ...]


def without_boxes(
    turns: Sequence[Said], regions: Sequence[Annotation | Reason], location: str, notes: Notes, name: str = ""
) -> Answered:
    """A conversation whose answers give boxes as a result: their words stay, their boxes become objects.

    It ends before the first answer that says nothing without its boxes, since later turns may refer to it.

    Args:
        turns, regions, location, notes, name: see :func:`conversation`.
    """
    plain: list[Said] = []
    answers = []
    cut = False
    for number in range(0, len(turns), 2):
        asked, answered = turns[number], turns[number + 1]
        words = None if _asks_for_boxes(asked, answered) else spoken(answered)
        notes.count(_UNWRITTEN, sum(len(mark.keys) for mark in answered.marks))
        if words is None and not cut:
            cut = True
            detail = f"turn {number // 2 + 1}: {short(answered.text)}"
            notes.drop(Reason.BOXES_ASKED, location, detail, (len(turns) - number) // 2)
        if not cut and words is not None:
            plain += [asked, Said(words.text)]
        answers.append((answered, words or spoken(answered)))
    objects, grounded = results(answers, regions, location, notes)
    talk = conversation(plain, regions, location, notes, name) if plain else None
    return Answered(talk, objects, grounded)


def _asks_for_boxes(asked: Said, answered: Said) -> bool:
    """Whether an answer is names with boxes alone, and the question points at nothing that they would name."""
    if any(mark.keys for mark in asked.marks) or not any(mark.keys for mark in answered.marks):
        return False
    ends = [0, *(mark.end for mark in answered.marks)]
    starts = [*(mark.start for mark in answered.marks), len(answered.text)]
    return not any(char.isalnum() for end, start in zip(ends, starts, strict=True) for char in answered.text[end:start])


def results(
    answers: Sequence[tuple[Said, Spoken | None]], regions: Sequence[Annotation | Reason], location: str, notes: Notes
) -> tuple[tuple[Annotation, ...], tuple[Grounded, ...]]:
    """Objects that texts give boxes of, each once, and the sentences that name them.

    Args:
        answers: texts with their tags and without.
        regions, location, notes: see :func:`conversation`.
    """
    keys = dict.fromkeys(key for said, _ in answers for mark in said.marks for key in mark.keys)
    indices: dict[int, int] = {}
    objects: list[Annotation] = []
    for key in keys:
        found = regions[key]
        if isinstance(found, Reason):
            notes.drop(found, location, f"box {key + 1} in an answer")
            continue
        names = [clean(mark.words) for said, _ in answers for mark in said.marks if mark.keys == (key,) and mark.words]
        indices[key] = len(objects)
        said_of = [name for name in dict.fromkeys(names) if name.lower() not in _PRONOUNS]
        objects.append(replace(found, captions=(*found.captions, *said_of)))
    grounded = []
    for _, words in answers:
        spans = [
            (start, end, tuple(indices[key] for key in one if key in indices))
            for start, end, one in (words.phrases if words else ())
            if one
        ]
        if spans and words:
            grounded.append(Grounded(words.text, tuple(spans)))
    return tuple(objects), tuple(grounded)
