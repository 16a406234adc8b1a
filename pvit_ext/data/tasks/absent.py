"""What is known not to be there: the material of negatives."""

from __future__ import annotations

import re

from pvit_ext.data.convert.annotation import AnnotatedImage, Box
from pvit_ext.data.tasks.base import Context

_WORD = re.compile(r"\w{3,}")


def other_label(image: AnnotatedImage, index: int, context: Context) -> str | None:
    """A label that is wrong for an object: mostly of another object of the image, which is the harder one.

    None where labels are no closed list: what is called ``man`` in one place may be called ``person`` in the next.
    """
    if not context.closed:
        return None
    own = image.objects[index].label
    near = sorted({item.label for item in image.objects if item.label} - {own})
    far = [label for label in context.classes if label != own]
    pool = near if near and (not far or context.choice.chance("other", index)) else far
    return context.choice.of(pool, "other label", index) if pool else None


def absent_class(image: AnnotatedImage, context: Context, *names: object) -> str | None:
    """A class of which the image holds no object; None where that is not known.

    Args:
        image: what is known.
        context: of the task.
        names: of what it is for.
    """
    present = {item.label for item in image.objects}
    pool = [label for label in context.classes if label not in present] if context.complete else []
    return context.choice.of(pool, "absent", *names) if pool else None


def foreign_caption(image: AnnotatedImage, index: int, context: Context) -> str | None:
    """A caption that does not describe an object: of another one elsewhere, and of other words."""
    mine = image.objects[index]
    words = {word for text in (mine.label, *mine.captions) for word in _WORD.findall(text.lower())}
    pool = [
        text
        for number, other in enumerate(image.objects)
        if number != index and not (other.label and other.label == mine.label) and apart(mine.box, other.box)
        for text in other.captions
        if not words & set(_WORD.findall(f"{other.label} {text}".lower()))
    ]
    return context.choice.of(pool, "foreign", index) if pool else None


def apart(one: Box | None, other: Box | None) -> bool:
    """Whether two boxes are known to have no common point."""
    if one is None or other is None:
        return False
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
