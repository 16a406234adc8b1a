"""Replies that pick one of several choices, read as Describe Anything's script does."""

from __future__ import annotations

from collections.abc import Sequence

from pvit_ext.data.generate.reply import BadReply

YES, NO = "Yes", "No"
_LETTERS = "ABCDE"


def numbered(question: str, choices: Sequence[str]) -> str:
    """A question with its choices, a letter each."""
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in zip(_LETTERS, choices, strict=False))])


def read_choice(reply: str, choices: Sequence[str]) -> int:
    """The index of the choice that a reply picks.

    In this order: it is a choice, its letter, or both; it holds just one choice; it begins with a letter and a dot; the
    choice that stands last in it, of several at one point the longest; the longest choice that it is a part of; it
    begins with a letter on a line of its own.

    Args:
        reply: of the judge.
        choices: as they were shown.

    Raises:
        BadReply: where it picks none.
    """
    said = reply.strip().lower()
    texts = [choice.strip().lower() for choice in choices]
    letters = _LETTERS.lower()[: len(texts)]
    for index, (letter, text) in enumerate(zip(letters, texts, strict=True)):
        if said in (text, letter, f"{letter}. {text}"):
            return index
    within = [index for index, text in enumerate(texts) if text in said]
    if len(within) == 1:
        return within[0]
    if said[:1] in letters and said[1:2] == "." and said:
        return letters.index(said[0])
    if within:
        return max(within, key=lambda index: (said.index(texts[index]), len(texts[index])))
    if said and (around := [index for index, text in enumerate(texts) if said in text]):
        return max(around, key=lambda index: len(texts[index]))
    if said and said[0] in letters and said[1:2] == "\n":
        return letters.index(said[0])
    raise BadReply(f"the reply has to be one of the {len(texts)} choices")
