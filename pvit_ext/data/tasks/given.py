"""What the source says of itself: its conversations and questions as they are, and a caption of the image."""

from __future__ import annotations

from collections.abc import Iterator

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.tasks.base import Context, Dialogue, Task, Turn
from pvit_ext.data.tasks.choice import pick

CAPTION = (
    "Describe the image.",
    "What does the image show?",
    "Write one sentence about this image.",
    "Give a short caption for the image.",
    "What is going on here?",
    "Sum up the image in a sentence.",
)


class Given(Task):
    """See the module."""

    name = "given"
    about = "the source's own conversations and questions, and captions of whole images"
    needs = "conversations, questions or captions of images"

    def turns(self, image: AnnotatedImage, context: Context) -> Iterator[Turn]:
        """The questions of the source, then one for a caption."""
        yield from questions(image)
        if image.captions:
            yield caption(image, context)

    def dialogues(self, image: AnnotatedImage, context: Context) -> Iterator[Dialogue]:
        """Each conversation is a record, and the questions are others."""
        yield from conversations(image)
        yield from super().dialogues(image, context)


def conversations(image: AnnotatedImage) -> Iterator[Dialogue]:
    """Those of the source, as they are."""
    for one in image.conversations:
        yield Dialogue(one.turns, regions=one.regions, name=one.id)


def questions(image: AnnotatedImage) -> Iterator[Turn]:
    """Those of the source, as they are."""
    for one in image.questions:
        yield Turn(one.question, one.answer, one.regions)


def caption(image: AnnotatedImage, context: Context) -> Turn:
    """A question about an image as a whole."""
    answer = pick(image.captions, context.choice.seed, image.item, "caption")
    return Turn(context.choice.of(CAPTION), answer)
