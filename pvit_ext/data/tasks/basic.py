"""What is asked without ``--task``: all that the source says, once.

Conversations and questions of the source come first, as they are. Then each object is asked about: its captions where
it has some, else its label. An image with neither, but with captions, is asked about as an image.
"""

from __future__ import annotations

from collections.abc import Iterator

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.tasks.base import Context, Dialogue, Task, Turn
from pvit_ext.data.tasks.description import describe
from pvit_ext.data.tasks.given import caption, conversations, questions
from pvit_ext.data.tasks.identification import identify


class Basic(Task):
    """See the module."""

    name = "basic"
    about = "all that the source says, once: its questions, then captions of objects, else their names"
    needs = "objects with labels or captions, captions of images, questions or conversations"

    def turns(self, image: AnnotatedImage, context: Context) -> Iterator[Turn]:
        """Questions of the source, then one or more for each object; for an image of captions, one for the image."""
        turns = list(questions(image))
        for index, item in enumerate(image.objects):
            turns += describe(image, index, context)
            if not item.captions and item.label:
                turns.append(identify(image, index, context))
        if not turns and not image.conversations and image.captions:
            turns = [caption(image, context)]
        yield from turns

    def dialogues(self, image: AnnotatedImage, context: Context) -> Iterator[Dialogue]:
        """Each conversation is a record, and the questions are others."""
        yield from conversations(image)
        yield from super().dialogues(image, context)
