"""Short answers as classes: what is taken off a text, and which class it names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

_ARTICLE = re.compile(r"^(?:a|an|the)\s+")
_ARTICLES = re.compile(r"(?:^|(?<=[.!?]\s))\s*A\s+(?!(?:is|was|and|or|as|because|since|seems)\b)(?=[a-z])")
"""The first word of a sentence, before a word that does not speak of a choice A: "A cat", not "A is closer"."""
_EDGES = " \t\r\n.,;:!?\"'`*()[]"
_WORDS = re.compile(r"\w+(?:[-'\u2019]\w+)*")


def normalise(text: str) -> str:
    """A short answer without what does not change its meaning.

    Unicode NFKC, lower case, ``_`` as a blank, one blank between words, no punctuation or quotes around it, and no
    article before it.

    Args:
        text: an answer or a name.
    """
    text = " ".join(unicodedata.normalize("NFKC", text).lower().replace("_", " ").split()).strip(_EDGES)
    return _ARTICLE.sub("", text).strip(_EDGES)


def equal_class(answer: str, classes: Collection[str]) -> str | None:
    """The class that the whole answer names, or None.

    Args:
        answer: as the model gave it.
        classes: normalised.
    """
    said = normalise(answer)
    return said if said in classes else None


def only_name_within(answer: str, classes: Sequence[str]) -> str | None:
    """The one class that occurs in the answer as whole words; None for no class, or for several.

    A longer name is looked for first, and its words are used up: "white rook" is no "rook".

    Args:
        answer: as the model gave it.
        classes: normalised.
    """
    words = _WORDS.findall(normalise(answer))
    names = _by_words(tuple(classes))
    found: set[str] = set()
    for length in sorted({len(parts) for parts in names}, reverse=True):
        for start in range(len(words) - length + 1):
            if (name := names.get(tuple(words[start : start + length]))) is not None:
                found.add(name)
                words[start : start + length] = [""] * length
    return found.pop() if len(found) == 1 else None


def alike_by_words(classes: Collection[str]) -> str | None:
    """Why :func:`only_name_within` cannot tell classes apart, such as ``c`` and ``c++``; None where it can.

    Args:
        classes: normalised.
    """
    found: dict[tuple[str, ...], str] = {}
    for name in classes:
        parts = tuple(_WORDS.findall(name))
        if not parts:
            return f"{name!r} has no words"
        if (other := found.setdefault(parts, name)) != name:
            return f"{other!r} and {name!r} are of the same words"
    return None


def check_words(classes: Collection[str]) -> None:
    """Refuse classes that ``match=words`` cannot tell apart.

    Args:
        classes: normalised.

    Raises:
        ValueError: naming one or two of them.
    """
    if alike := alike_by_words(classes):
        raise ValueError(f"--set match=words cannot tell the classes apart: {alike}; take match=whole, or rename one")


@lru_cache(maxsize=8)
def _by_words(classes: tuple[str, ...]) -> dict[tuple[str, ...], str]:
    """Classes by their words; for each answer the same."""
    return {parts: name for name in classes if (parts := tuple(_WORDS.findall(name)))}


def only_letter(answer: str, letters: Sequence[str]) -> str | None:
    """The letter that an answer begins with, in brackets or before a mark; else the one that stands in it on its own.

    The article of "A cat" is no letter.

    Args:
        answer: such as ``B``, ``(B) A dog``, ``B. A dog`` or ``The answer is B.``
        letters: capitals, of the choices.

    Returns:
        the letter; None for none, or for several.
    """
    if (first := re.match(r"\s*\(?([A-Z])(?:[).:]|\s*$)", answer)) and first[1] in letters:
        return first[1]
    text = _ARTICLES.sub("", answer)
    found = {letter for letter in letters if re.search(rf"(?<![A-Za-z]){letter}(?![A-Za-z])", text)}
    return found.pop() if len(found) == 1 else None


def chosen_letter(answer: str, choices: Mapping[str, str]) -> str | None:
    """The letter of the choice that an answer is, word for word; else :func:`only_letter`.

    Args:
        answer: as the model gave it.
        choices: texts by letter.
    """
    said = normalise(answer)
    same = [letter for letter, text in choices.items() if said and said == normalise(text)]
    return same[0] if len(same) == 1 else only_letter(answer, list(choices))
