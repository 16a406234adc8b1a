"""VCR's texts, which are lists of words and indices, as texts with tags."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pvit_ext.data.convert.fields import kept, short
from pvit_ext.data.convert.marks import Mark, Said
from pvit_ext.data.convert.notes import BadItem

_CLOSES = re.compile(r"[.,!?;:%)\]}]|n't|['\u2019]\w*")
_OPENS = re.compile(r"[(\[{$'\u2019]")
_NAMES = (
    "baseball bat", "baseball glove", "cell phone", "dining table", "fire hydrant", "hair drier", "hot dog",
    "parking meter", "potted plant", "sports ball", "stop sign", "teddy bear", "tennis racket", "traffic light",
    "tv monitor", "wine glass",
)  # fmt: skip
_PARTED = {name.replace(" ", ""): name for name in _NAMES}


def class_name(name: str) -> str:
    """The name of a detector's class with its blanks, such as ``dining table``."""
    return _PARTED.get(name, name)


def vcr_text(words: Sequence[Any], objects: int) -> Said:
    """A text with its tags.

    Args:
        words: text, or lists of indices in the objects.
        objects: how many there are.

    Raises:
        BadItem: for an index beyond them, which others drop without a word.
    """
    text, marks, opened = "", [], True
    for word in words:
        keys = word if isinstance(word, list) else None
        written = "<>" if keys is not None else kept(word, "a word", str)
        if text and not opened and not _CLOSES.fullmatch(written):
            text += " "
        if keys is not None:
            for key in keys:
                if not isinstance(key, int) or not 0 <= key < objects:
                    raise BadItem(f"it names object {short(key)} of {objects}, counted from 0")
            marks.append(Mark(len(text), len(text) + 2, tuple(keys)))
        text += written
        opened = bool(_OPENS.fullmatch(written))
    return Said(text, tuple(marks))
