"""Regions into texts: ``<region>`` behind the words that name a thing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from pvit_ext.prompt import REGION_PLACEHOLDER

ItemT = TypeVar("ItemT")


def insert_regions(text: str, named: Sequence[tuple[int, Sequence[ItemT]]]) -> tuple[str, list[ItemT]]:
    """A text with ``<region>`` behind each named phrase, and what they mean in order.

    ``a dog and a ball`` with its dog becomes ``a dog <region> and a ball``; several regions of one phrase stand behind
    each other with commas.

    Args:
        text: in which no ``<region>`` stands yet.
        named: the end of each phrase, as a position in the text, and what stands there; in any order.
    """
    parts: list[str] = []
    items: list[ItemT] = []
    position = 0
    for end, values in sorted(named, key=lambda one: one[0]):
        if not values:
            continue
        parts += [text[position:end], " ", ", ".join([REGION_PLACEHOLDER] * len(values))]
        items += values
        position = end
        if text[end : end + 1].isalnum():
            parts.append(" ")
    return "".join([*parts, text[position:]]), items


def phrase_end(text: str, phrase: str) -> int | None:
    """The end of the first occurrence of a phrase as words of their own, in any case; None if there is none."""
    low, wanted, start = text.lower(), phrase.lower().strip(), 0
    while wanted and (found := low.find(wanted, start)) >= 0:
        end = found + len(wanted)
        if not (low[max(found - 1, 0) : found].isalnum() or low[end : end + 1].isalnum()):
            return end
        start = found + 1
    return None
