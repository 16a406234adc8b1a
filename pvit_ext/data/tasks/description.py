"""What a region's captions say. With negatives also whether a sentence describes it, half of them another object's."""

from __future__ import annotations

from collections.abc import Iterator

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.tasks.absent import foreign_caption
from pvit_ext.data.tasks.base import Context, Task, Turn
from pvit_ext.data.tasks.check import Check

DESCRIBE = (
    "Describe <region>.",
    "What can you say about <region>?",
    "Write a short description of <region>.",
    "Tell me what is going on in <region>.",
    "Give a phrase that describes <region>.",
    "How would you describe <region> to somebody who cannot see it?",
)
CHECK = Check(
    "text",
    ask=(
        'Does "{text}" describe <region>?',
        'Is this a description of <region>: "{text}"?',
        'Somebody writes "{text}" about <region>. Is that right?',
        'Read this: "{text}". Is <region> meant?',
        'Would "{text}" be a right caption for <region>?',
        'Is "{text}" true of <region>?',
    ),
    right=("Yes.", "Yes, that is right.", "Yes, that is so."),
    wrong=('No. A right description is "{text}".', 'No, rather "{text}".', 'No; it shows "{text}".'),
)


class Description(Task):
    """See the module."""

    name = "description"
    about = "what a region's captions say"
    needs = "objects with captions"
    heeds = ("negatives",)

    def turns(self, image: AnnotatedImage, context: Context) -> Iterator[Turn]:
        """A question for each caption, and one for each object whether a sentence describes it."""
        for index in range(len(image.objects)):
            yield from describe(image, index, context)
            if context.negatives and (turn := _check(image, index, context)):
                yield turn


def describe(image: AnnotatedImage, index: int, context: Context) -> Iterator[Turn]:
    """A question for each caption of an object."""
    for number, caption in enumerate(image.objects[index].captions):
        yield Turn(context.choice.of(DESCRIBE, index, number), caption, (index,))


def _check(image: AnnotatedImage, index: int, context: Context) -> Turn | None:
    captions, foreign = image.objects[index].captions, foreign_caption(image, index, context)
    if not captions or foreign is None:
        return None
    return CHECK.turn(context.choice.of(captions, "own", index), foreign, (index,), context, index)
