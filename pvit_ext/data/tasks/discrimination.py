"""Which of several objects of one label: the leftmost, the red one, the one that a caption describes.

With negatives some questions are about a colour that none of them has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.tasks.attribute import COLOURS, colour_of
from pvit_ext.data.tasks.base import Context, Task, Turn, fill, listed
from pvit_ext.data.tasks.layout import Fact, boxes_of, distinct, layout_facts

WHICH = (
    "Which of {regions} {fact}?",
    "You see {regions}. Which {fact}?",
    "Look at {regions}. Which one {fact}?",
    "Of these, {regions}, which {fact}?",
    "Tell {regions} apart: which {fact}?",
    "Which one of these, {regions}, {fact}?",
    "One of {regions} {fact}. Which?",
    "Say which of {regions} {fact}.",
)
ORDINALS = ("first", "second", "third", "fourth", "fifth")
ANSWER = ("The {ordinal}.", "The {ordinal} one.", "It is the {ordinal}.", "The {ordinal} of them.")
NONE = ("None of them.", "None of these.")
_FACTS = 3
"""Most facts that are asked about one group of objects."""
_PRESUMES = "One of"


class Discrimination(Task):
    """See the module."""

    name = "discrimination"
    about = "which of several objects of one label is meant"
    needs = "two or more objects of one label in an image"
    heeds = ("negatives",)

    def turns(self, image: AnnotatedImage, context: Context) -> Iterator[Turn]:
        """Up to three questions for each label of several objects, the most frequent first."""
        for label, indices in _groups(image):
            chosen = distinct(image, context.choice.order(indices, "group", label), len(ORDINALS))
            if len(chosen) < 2:
                continue
            facts = context.choice.order(_facts(image, chosen), "facts", label)[:_FACTS]
            yield from (which(chosen, fact, context, label) for fact in facts)
            if context.negatives and (colour := _absent_colour(image, chosen, context, label)):
                yield which(chosen, Fact(f"is {colour}", -1), context, label)


def which(indices: Sequence[int], fact: Fact, context: Context, *names: object) -> Turn:
    """A question which of several objects a fact is true of.

    Args:
        indices: of the objects.
        fact: with -1 as winner where it is true of none.
        context: of the task.
        names: of what it is for.
    """
    usable = [one for one in WHICH if fact.winner >= 0 or not one.startswith(_PRESUMES)]
    asked = fill(context.choice.of(usable, fact.words, *names), regions=listed(len(indices), "and"), fact=fact.words)
    if fact.winner < 0:
        return Turn(asked, context.choice.of(NONE, fact.words, *names), tuple(indices))
    answer = fill(context.choice.of(ANSWER, "answer", fact.words, *names), ordinal=ORDINALS[fact.winner])
    return Turn(asked, answer, tuple(indices))


def _groups(image: AnnotatedImage) -> list[tuple[str, list[int]]]:
    groups: dict[str, list[int]] = {}
    for index, item in enumerate(image.objects):
        if item.label:
            groups.setdefault(item.label, []).append(index)
    several = [(label, indices) for label, indices in groups.items() if len(indices) > 1]
    return sorted(several, key=lambda group: -len(group[1]))


def _facts(image: AnnotatedImage, indices: Sequence[int]) -> list[Fact]:
    """What is true of one object alone, as far as that is certain: a colour only where all have one."""
    facts = layout_facts(boxes_of(image, indices), image.size)
    colours = [colour_of(image.objects[index]) for index in indices]
    if None not in colours:
        facts += [Fact(f"is {one}", number) for number, one in enumerate(colours) if colours.count(one) == 1]
    captions = [image.objects[index].captions for index in indices]
    said = [text for texts in captions for text in texts]
    if all(captions):
        own = [(number, text) for number, texts in enumerate(captions) for text in texts if said.count(text) == 1]
        facts += [Fact(f'is described by "{text}"', number) for number, text in own]
    return facts


def _absent_colour(image: AnnotatedImage, indices: Sequence[int], context: Context, label: str) -> str | None:
    colours = {colour_of(image.objects[index]) for index in indices}
    if None in colours:
        return None
    others = [one for one in COLOURS if one not in ("gray", *colours)]
    return context.choice.of(others, "absent colour", label)
