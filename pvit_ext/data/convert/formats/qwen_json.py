"""Qwen2.5-VL's and Qwen3-VL's grounding data: answers of JSON with ``bbox_2d`` or ``point_2d``, and ``label``.

The file does not say what its numbers are. Qwen3-VL's are thousandths of each side. Qwen2.5-VL's are pixels of the
image as its processor resizes it: sides rounded to multiples of 28, the area kept between two limits, which have to
be those of the data.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Size
from pvit_ext.data.convert.base import Evidence, ReadOptions, Setting, SourceError
from pvit_ext.data.convert.chats import ChatItems, images_named, is_single, turns_of, without_boxes
from pvit_ext.data.convert.fields import clean, short
from pvit_ext.data.convert.marks import Mark, Said
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shapes import boxed_in, numbers, pointed, scaled

_OBJECT = r'\{[^{}]*"(?:bbox_2d|point_2d)"[^{}]*\}'
_BLOCK = re.compile(rf"(?:```(?:json)?\s*)?(\[\s*{_OBJECT}(?:\s*,\s*{_OBJECT})*\s*\]|{_OBJECT})(?:\s*```)?")
_KEYS = ('"bbox_2d"', '"point_2d"')
_STEP = 28


class QwenJson(ChatItems):
    """See the module."""

    name = "qwen_json"
    about = "Qwen2.5-VL's and Qwen3-VL's grounding data: JSON with bbox_2d in the texts"
    settings: ClassVar[Mapping[str, Setting]] = {
        "numbers": Setting(
            "", "thousandths (Qwen3-VL), or pixels of the resized image (Qwen2.5-VL)", ("thousandths", "pixels")
        ),
        "min_pixels": Setting("", "least area of the resized image, such as 3136; for pixels"),
        "max_pixels": Setting("", "most area of the resized image, such as 1003520 or 12845056; for pixels"),
    }

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        if not self.chosen["numbers"]:
            raise SourceError(
                f"{source} does not say what its numbers are: --set numbers=thousandths for data of Qwen3-VL, "
                f"--set numbers=pixels for Qwen2.5-VL's, with its min_pixels and max_pixels"
            )
        self.limits = self._limits()

    def _limits(self) -> tuple[int, int]:
        given = [self.chosen[key] for key in ("min_pixels", "max_pixels")]
        if self.chosen["numbers"] == "thousandths":
            if any(given):
                raise SourceError(f"{self.name}: min_pixels and max_pixels are for numbers=pixels, leave them out")
            return 0, 0
        if not all(text.isdecimal() for text in given) or int(given[0]) > int(given[1]):
            raise SourceError(
                f"{self.name}: pixels of the resized image need the limits of its data, two whole numbers: "
                f"--set min_pixels=3136 --set max_pixels=1003520 or another; got {given[0]!r} and {given[1]!r}"
            )
        return int(given[0]), int(given[1])

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """A conversation with ``bbox_2d`` or ``point_2d``."""
        turns = peek.item.get("conversations") or peek.item.get("messages")
        found = isinstance(turns, list) and any(key in str(turns) for key in _KEYS)
        return Evidence(0.95, "conversations with bbox_2d or point_2d") if found else None

    def images(self, item: Mapping[str, Any], location: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image of an item with its conversation and what its answers locate."""
        texts = turns_of(item, notes, "messages" if "messages" in item else "conversations")
        paths = images_named(item)
        if not is_single(paths, len(texts) // 2, location, notes):
            return
        if (found := self.image_folder.look_up(paths, None, location, notes, max(len(texts) // 2, 1))) is None:
            return
        if found[1] is None and self.chosen["numbers"] == "pixels":
            raise BadItem("pixels of the resized image need its size; convert without --no-images")
        regions: list[Annotation | Reason] = []
        turns = [self._said(text, regions, found[1], notes) for text in texts]
        said = without_boxes(turns, regions, location, notes, str(item.get("id", "")))
        conversations = (said.conversation,) if said.conversation else ()
        yield AnnotatedImage(found[0], found[1], "", said.objects, conversations=conversations)

    def _said(self, text: str, regions: list[Annotation | Reason], size: Size | None, notes: Notes) -> Said:
        marks = []
        for block in _BLOCK.finditer(text):
            try:
                values = json.loads(block[1])
            except ValueError as error:
                raise BadItem(f"not valid JSON: {error}: {short(block[1])}") from error
            values = values if isinstance(values, list) else [values]
            marks.append(Mark(block.start(), block.end(), tuple(range(len(regions), len(regions) + len(values)))))
            regions += [self._region(value, size, notes) for value in values]
        if any(key in _BLOCK.sub("", text) for key in _KEYS):
            raise BadItem(f"bbox_2d or point_2d in what is no JSON: {short(text)}")
        return Said(text, tuple(marks))

    def _region(self, value: Mapping[str, Any], size: Size | None, notes: Notes) -> Annotation | Reason:
        label = clean(value.get("label"))
        is_point = "point_2d" in value
        given = numbers(value["point_2d" if is_point else "bbox_2d"], 2 if is_point else 4, "point_2d or bbox_2d")
        full = (1000, 1000) if self.chosen["numbers"] == "thousandths" else resized(size or (1, 1), *self.limits)
        if any(not 0 <= one <= full[at % 2] for at, one in enumerate(given)):
            raise BadItem(f"{short(given)} is beyond {full[0]}x{full[1]}; are numbers, min_pixels, max_pixels right?")
        fractions = [one / full[at % 2] for at, one in enumerate(given)]
        if not is_point:
            return boxed_in(1, fractions, size, notes, label=label)
        if size is None:
            return Annotation({"point": fractions, "normalized": True}, None, label)
        return pointed("point", scaled(fractions, size), size, of_fractions=True, label=label)


def resized(size: Size, least: int, most: int) -> Size:
    """The size to which Qwen2.5-VL's processor brings an image.

    Args:
        size: (width, height) of the image.
        least, most: pixels it may have then.

    Source: ``smart_resize`` of transformers, models/qwen2_vl/image_processing_qwen2_vl.py.
    """
    width, height = (round(side / _STEP) * _STEP for side in size)
    if width * height > most:
        scale = math.sqrt(size[0] * size[1] / most)
        width, height = (max(_STEP, math.floor(side / scale / _STEP) * _STEP) for side in size)
    elif width * height < least:
        scale = math.sqrt(least / (size[0] * size[1]))
        width, height = (math.ceil(side * scale / _STEP) * _STEP for side in size)
    return width, height
