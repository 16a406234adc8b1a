"""Which object a region shows: its label. With negatives also whether a label is right, half of them wrong ones."""

from __future__ import annotations

from collections.abc import Iterator

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.tasks.absent import other_label
from pvit_ext.data.tasks.base import Context, Task, Turn
from pvit_ext.data.tasks.check import Check

NAME = (
    "What is <region>?",
    "What do you see in <region>?",
    "Name the object in <region>.",
    "What kind of thing does <region> show?",
    "Which object is marked by <region>?",
    "Say in a word or two what <region> is.",
    "Identify what is inside <region>.",
    "What would you call the thing in <region>?",
)
CHECK = Check(
    "label",
    ask=(
        'Does the name "{label}" fit <region>?',
        'Is "{label}" what <region> shows?',
        "Somebody calls <region> {label}. Is that right?",
        "Would you label <region> as {label}?",
        "Is this region, <region>, correctly named {label}?",
        "Can <region> be called {label}?",
    ),
    right=("Yes, it is {label}.", "Yes, {label} is right.", "Yes, that is {label}."),
    wrong=("No, it is {label}.", "No, {label} is right.", "No, that is {label}."),
)


class Identification(Task):
    """See the module."""

    name = "identification"
    about = "which object a region shows"
    needs = "objects with labels"
    heeds = ("negatives",)

    def turns(self, image: AnnotatedImage, context: Context) -> Iterator[Turn]:
        """A question for each object with a label, and one whether a label fits."""
        for index, item in enumerate(image.objects):
            if item.label:
                yield identify(image, index, context)
                if context.negatives and (turn := _check(image, index, context)):
                    yield turn


def identify(image: AnnotatedImage, index: int, context: Context) -> Turn:
    """The question for an object's label."""
    return Turn(context.choice.of(NAME, index), image.objects[index].label, (index,))


def _check(image: AnnotatedImage, index: int, context: Context) -> Turn | None:
    """Whether a label fits: its own or, as often, another; None where no other is known to be wrong."""
    own, other = image.objects[index].label, other_label(image, index, context)
    return None if other is None else CHECK.turn(own, other, (index,), context, index)
