"""What is known about one image: its regions with labels, its captions, and what else an annotation file says."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from pvit_ext.regions.raster import Box
from pvit_ext.regions.region import Size

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_LOOKS_LIKE_A_NAME = re.compile(r"\[(R\d+)\]", re.IGNORECASE)


@dataclass(frozen=True)
class SceneObject:
    """One region of an image and what is said about it.

    Args:
        region: the JSON of its record, for the records that are written.
        box: around it, fractions of the image (left, top, right, bottom).
        pixels: area of the box, in pixels.
        label: what it is.
        attributes: what it is like.
        text: what is written on it.
        phrases: that describe it.
    """

    region: Any
    box: Box
    pixels: float
    label: str | None = None
    attributes: tuple[str, ...] = ()
    text: str | None = None
    phrases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """One image.

    Args:
        name: of the record, unique in its file.
        image: as records name it, in the image folder.
        file: its path.
        size: (width, height) of the upright image, pixels.
        objects: its regions.
        captions: sentences about the image.
        relations: (object, predicate, object), by number in ``objects``.
        description: a paragraph about the image, if there is one.
    """

    name: str
    image: str
    file: str
    size: Size
    objects: tuple[SceneObject, ...]
    captions: tuple[str, ...] = ()
    relations: tuple[tuple[int, str, int], ...] = ()
    description: str | None = None


def clean(text: str) -> str:
    """A text of an annotation on one line, in which nothing can be taken for markup or for the name of a region."""
    text = _UNPRINTABLE.sub(" ", text).replace("<", "\u2039").replace(">", "\u203a")
    return " ".join(_LOOKS_LIKE_A_NAME.sub(r"(\1)", text).split())


def is_small(thing: SceneObject) -> bool:
    """Whether it is small as COCO counts (an area under 32 x 32 pixels), or under a hundredth of its image."""
    x0, y0, x1, y1 = thing.box
    return thing.pixels < 32 * 32 or math.prod((x1 - x0, y1 - y0)) < 0.01
