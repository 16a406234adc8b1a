"""What a region is like: its attributes. With negatives also whether it has a colour, half of them another one."""

from __future__ import annotations

from collections.abc import Iterator

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation
from pvit_ext.data.tasks.base import Context, Task, Turn
from pvit_ext.data.tasks.check import Check

ASK = (
    "What is <region> like?",
    "Which attributes does <region> have?",
    "Name the properties of <region>.",
    "How does <region> look? Answer in a few words.",
    "Which words tell what <region> is like?",
    "List what can be said of the look of <region>.",
    "What attributes fit <region>?",
    "Give the attributes of <region>, with commas.",
)
CHECK = Check(
    "colour",
    ask=(
        "Is <region> {colour}?",
        "Does <region> have the colour {colour}?",
        "Would you call <region> {colour}?",
        "Is {colour} the colour of <region>?",
        "Somebody says that <region> is {colour}. Is that so?",
        "Is it true that <region> is {colour}?",
    ),
    right=("Yes, it is {colour}.", "Yes, {colour}."),
    wrong=("No, it is {colour}.", "No, {colour}."),
)
COLOURS = ("black", "blue", "brown", "gray", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")
_ALIKE = {"gray": "grey"}
_OF_THE_LABELLING = frozenset({"difficult"})


class Attribute(Task):
    """See the module."""

    name = "attribute"
    about = "what a region is like"
    needs = "objects with attributes"
    version = 2
    heeds = ("negatives",)

    def turns(self, image: AnnotatedImage, context: Context) -> Iterator[Turn]:
        """A question for each object with attributes, and one about its colour."""
        for index, item in enumerate(image.objects):
            if words := attributes_of(item):
                yield Turn(context.choice.of(ASK, "attribute", index), words, (index,))
            if context.negatives and (colour := colour_of(item)):
                yield _check(colour, index, context)


def attributes_of(item: Annotation) -> str:
    """An object's attributes as text, without those that are about the labelling."""
    return ", ".join(word for word in item.attributes if word not in _OF_THE_LABELLING)


def colour_of(item: Annotation) -> str | None:
    """The colour of an object that has exactly one."""
    found = {_ALIKE.get(word, word) for word in item.attributes if word in COLOURS}
    return found.pop() if len(found) == 1 else None


def _check(colour: str, index: int, context: Context) -> Turn:
    others = [one for one in COLOURS if colour not in (one, _ALIKE.get(one))]
    return CHECK.turn(colour, context.choice.of(others, "other colour", index), (index,), context, index)
