"""Texts of instruction data in which tags of some kind name regions, as texts with ``<region>``.

A question gets ``<region>`` in place of its tag. An answer is what a model must say, so that it holds none: where
answers (or the choices of a question) tell regions apart, regions are introduced by number, ``region 1 <region>``, and
answers say ``region 1``. Where an answer gives boxes as a result, its words are kept without them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pvit_ext.prompt import REGION_PLACEHOLDER

_LEAD = re.compile(r"\s*(?:<image>\s*)*")
_JOINS = re.compile(r"[\s,;&]*(?:and)?\s*")
_NEEDS_MORE = frozenset(
    "a an and are around as at be behind below beside between by from in inside is near of on or over than the to "
    "under was were with within".split()
)
"""A sentence does not break off behind these; a box stood in the place of what they need."""


@dataclass(frozen=True)
class Mark:
    """A tag in a text.

    Args:
        start, end: its characters.
        keys: which of the record's regions it names, several for one phrase of several things.
        words: the phrase that it holds, empty for a bare tag.
    """

    start: int
    end: int
    keys: tuple[int, ...]
    words: str = ""


@dataclass(frozen=True)
class Said:
    """A text and its tags, in order."""

    text: str
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Spoken:
    """An answer without its tags.

    Args:
        text: plain.
        phrases: (start, end, keys) of the tags' words in it.
    """

    text: str
    phrases: tuple[tuple[int, int, tuple[int, ...]], ...]


def region_name(key: int) -> str:
    """What a region is called where answers tell several apart."""
    return f"region {key + 1}"


def compose(turns: Sequence[Said], name: Callable[[int], str] = region_name) -> tuple[tuple[str, ...], list[int]]:
    """The turns with ``<region>``, and the key of each in order.

    Args:
        turns: question and answer in turn.
        name: what a region is called where it is named again.
    """
    if not _told_apart(turns):
        return tuple(_inline(turn) for turn in turns), [
            key for turn in turns for mark in turn.marks for key in mark.keys
        ]
    texts: list[str] = []
    order: list[int] = []
    for number in range(0, len(turns), 2):
        asked = turns[number]
        answered = turns[number + 1 : number + 2]
        own = {key for mark in asked.marks for key in mark.keys}
        first = dict.fromkeys(key for one in answered for mark in one.marks for key in mark.keys)
        ahead = [key for key in first if key not in own and key not in order]
        order += ahead
        question = _named(asked, name, order)
        if ahead:
            lead = _LEAD.match(question)
            assert lead is not None
            told = " ".join(f"{_capital(name(key))} is {REGION_PLACEHOLDER}." for key in ahead)
            question = f"{question[: lead.end()]}{told} {question[lead.end() :]}"
        texts += [question, *(_named(one, name, order) for one in answered)]
    return tuple(texts), order


def spoken(said: Said) -> Spoken | None:
    """An answer in words, without its boxes; None where it says nothing without them.

    Args:
        said: with phrases, which stay, or bare tags, which are cut out with the blanks before them.
    """
    parts: list[str] = []
    phrases: list[tuple[int, int, tuple[int, ...]]] = []
    position, bare = 0, False
    for mark in said.marks:
        between = said.text[position : mark.start]
        position = mark.end
        if mark.words:
            start = sum(map(len, parts)) + len(between)
            parts += [between, mark.words]
            phrases.append((start, start + len(mark.words), mark.keys))
        elif not (bare and _JOINS.fullmatch(between)):
            before = between.rstrip(" (")
            if _breaks_off("".join([*parts, before])):
                return None
            parts.append(before)
            position += "(" in between[len(before) :] and said.text[position : position + 1] == ")"
        bare = not mark.words
    text = "".join([*parts, said.text[position:]])
    return Spoken(text, tuple(phrases)) if any(map(str.isalnum, text)) else None


def put_before(said: Said, keys: Sequence[int]) -> Said:
    """A question with regions before it that it speaks of without a tag.

    Args:
        said: the question.
        keys: of the regions.
    """
    lead = _LEAD.match(said.text)
    assert lead is not None
    at = lead.end()
    tags = " ".join("<>" for _ in keys) + "\n"
    ahead = [Mark(at + 3 * number, at + 3 * number + 2, (key,)) for number, key in enumerate(keys)]
    moved = [replace(mark, start=mark.start + len(tags), end=mark.end + len(tags)) for mark in said.marks]
    return Said(f"{said.text[:at]}{tags}{said.text[at:]}", (*ahead, *moved)) if keys else said


def _told_apart(turns: Sequence[Said]) -> bool:
    """Whether an answer names a region, or a question one of them twice."""
    for number, turn in enumerate(turns):
        keys = [key for mark in turn.marks for key in mark.keys]
        if keys and (number % 2 or len(set(keys)) < len(keys)):
            return True
    return False


def _inline(said: Said) -> str:
    return _replaced(said, lambda mark: _joined(mark.words, ", ".join([REGION_PLACEHOLDER] * len(mark.keys))))


def _named(said: Said, name: Callable[[int], str], known: list[int]) -> str:
    """A text with the names of its regions; ``known`` takes those that it introduces."""

    def words(mark: Mark) -> str:
        found = []
        for key in mark.keys:
            found.append(name(key) if key in known else f"{name(key)} {REGION_PLACEHOLDER}")
            if key not in known:
                known.append(key)
        text = " and ".join(found)
        text = f"{mark.words} ({text})" if mark.words else text
        return text if said.text[: mark.start].strip() else _capital(text)

    return _replaced(said, words)


def _replaced(said: Said, words: Callable[[Mark], str]) -> str:
    parts, position = [], 0
    for mark in said.marks:
        parts += [said.text[position : mark.start], words(mark)]
        position = mark.end
    return "".join([*parts, said.text[position:]])


def _breaks_off(text: str) -> bool:
    words = text.split()
    return not words or words[-1].lower() in _NEEDS_MORE or words[-1][-1] in ":,;=-"


def _joined(*texts: str) -> str:
    return " ".join(text for text in texts if text)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
