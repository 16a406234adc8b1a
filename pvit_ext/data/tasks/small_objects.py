"""What a small region shows: one of at most a hundredth of the image, and of four pixels a side at least."""

from __future__ import annotations

from collections.abc import Iterator

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Size
from pvit_ext.data.tasks.base import Context, Task, Turn
from pvit_ext.data.tasks.layout import area

LABEL = (
    "What is the small thing in <region>?",
    "Look closely at <region>. What is it?",
    "<region> is small. Which object does it show?",
    "Can you make out what <region> is?",
    "Name the little object in <region>.",
    "Which thing hides in the small region <region>?",
    "Zoom in on <region>: what do you see?",
    "What is this tiny thing, <region>?",
)
CAPTION = (
    "Describe the small thing in <region>.",
    "Look closely at <region> and describe it.",
    "<region> is small. What can you say about it?",
    "What can be made out in <region>? Describe it.",
    "Zoom in on <region> and tell what you see.",
    "Give a phrase for the little thing in <region>.",
)
LARGEST_PART = 0.01
LEAST_SIDE = 4.0


class SmallObjects(Task):
    """See the module."""

    name = "small_objects"
    about = "what a region of at most a hundredth of the image shows"
    needs = "labelled or described objects of at most 1 % of the image's area, and of 4 pixels a side"

    def turns(self, image: AnnotatedImage, context: Context) -> Iterator[Turn]:
        """A question for each small object: for a caption where it has some, else for its label."""
        for index, item in enumerate(image.objects):
            if not _is_small(item, image.size):
                continue
            if item.captions:
                answer = context.choice.of(item.captions, "small caption", index)
                yield Turn(context.choice.of(CAPTION, "small", index), answer, (index,))
            elif item.label:
                yield Turn(context.choice.of(LABEL, "small", index), item.label, (index,))


def _is_small(item: Annotation, size: Size | None) -> bool:
    if item.box is None or size is None:
        return False
    x0, y0, x1, y1 = item.box
    return min(x1 - x0, y1 - y0) >= LEAST_SIDE and area(item.box) <= LARGEST_PART * size[0] * size[1]
