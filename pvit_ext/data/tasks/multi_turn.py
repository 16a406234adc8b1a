"""A talk about several regions of an image: what they are, what they are like, how they stand to each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.tasks.attribute import ASK as ATTRIBUTES
from pvit_ext.data.tasks.attribute import attributes_of
from pvit_ext.data.tasks.base import Context, Dialogue, Task, Turn, in_records
from pvit_ext.data.tasks.description import DESCRIBE
from pvit_ext.data.tasks.discrimination import which
from pvit_ext.data.tasks.identification import NAME
from pvit_ext.data.tasks.layout import boxes_of, distinct, layout_facts
from pvit_ext.data.tasks.relation import ASK as RELATIONS
from pvit_ext.data.tasks.relation import sentence

FOLLOW = (
    "And <region>?",
    "What about <region>?",
    "And what is in <region>?",
    "Now look at <region>. What is that?",
    "Then what does <region> show?",
    "Next, <region>: what is it?",
)
_OBJECTS, _LEAST = 3, 3
"""Most objects in a talk, and the fewest turns that make one."""


class MultiTurn(Task):
    """See the module."""

    name = "multi_turn"
    about = "a talk about two or three regions of an image"
    needs = "images with two or more objects that have labels or captions"

    def turns(self, image: AnnotatedImage, context: Context) -> Iterator[Turn]:
        """All turns of all talks."""
        for talk in _talks(image, context):
            yield from talk

    def dialogues(self, image: AnnotatedImage, context: Context) -> Iterator[Dialogue]:
        """A record for each talk."""
        for talk in _talks(image, context):
            yield from in_records(talk[: context.turns or None], 0)


def _talks(image: AnnotatedImage, context: Context) -> Iterator[list[Turn]]:
    named = [index for index, item in enumerate(image.objects) if item.label or item.captions]
    order = distinct(image, context.choice.order(named, "talk"), len(named))
    for start in range(0, len(order), _OBJECTS):
        talk = _talk(image, order[start : start + _OBJECTS], context)
        if len(talk) >= _LEAST:
            yield talk


def _talk(image: AnnotatedImage, indices: Sequence[int], context: Context) -> list[Turn]:
    if len(indices) < 2:
        return []
    choice, turns = context.choice, []
    for number, index in enumerate(indices):
        turns.append(_first(image, index, context, follows=number > 0))
        if words := attributes_of(image.objects[index]):
            turns.append(Turn(choice.of(ATTRIBUTES, "talk attribute", index), words, (index,)))
    for number, one in enumerate(image.relations):
        if one.subject in indices and one.object in indices:
            turns.append(Turn(choice.of(RELATIONS, "talk", number), sentence(image, one), (one.subject, one.object)))
    if facts := layout_facts(boxes_of(image, indices), image.size):
        turns.append(which(indices, choice.of(facts, "talk fact", indices[0]), context, "talk", indices[0]))
    return turns


def _first(image: AnnotatedImage, index: int, context: Context, follows: bool) -> Turn:
    """What an object is: its label, else a caption."""
    choice, item = context.choice, image.objects[index]
    answer = item.label or choice.of(item.captions, "talk caption", index)
    templates = FOLLOW if follows else NAME if item.label else DESCRIBE
    return Turn(choice.of(templates, "talk", index), answer, (index,))
