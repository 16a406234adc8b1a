"""Answers that the captions contradict by their own words: another number, another colour or pose, or a denial.

Only words are compared, so this finds what is wrong on its face and nothing else; what it finds is nearly always wrong.
A word is compared where it stands at the same noun: "a brown dog" against "the dog is black".
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_COLOURS = (
    "black", "white", "red", "green", "blue", "yellow", "brown", "orange", "pink", "purple", "gray", "beige", "silver",
    "golden", "turquoise",
)  # fmt: skip
_GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("number", _NUMBERS[1:]),  # "one dog" may be one of two
    ("colour", _COLOURS),
    ("pose", ("standing", "sitting", "lying", "kneeling", "jumping")),
    ("state", ("open", "closed")),
    ("filling", ("empty", "full")),
    ("age", ("young", "old")),
    ("moisture", ("wet", "dry")),
)
_GROUP_OF = {word: name for name, words in _GROUPS for word in words}
_SAME = {
    "grey": "gray", "gold": "golden", "seated": "sitting", "laying": "lying", "elderly": "old", "shut": "closed",
    **{str(number): word for number, word in enumerate(_NUMBERS, 1)},
}  # fmt: skip
_BE = {"is", "are", "was", "were", "be"}
_BETWEEN = {"and", "or", "very", "quite", "large", "small", "big", "little", "dark", "light", "bright", "tall", "long"}
_DENIED = re.compile(
    r"\b(?:there (?:is|are) no|there (?:isn't|aren't) (?:an?|any)|there (?:is|are) not (?:an?|any)|without (?:an?|any)"
    r"|no)\s+([a-z]+)\b(?=\s*(?:[.,;:!?]|$)|\s+(?:in|on|at|near|next|here|there|and|or|to|by|beside|behind|under|with)\b)"
)
_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*|\d+|[.,;:!?]")


def contradiction(answer: str, captions: Sequence[str], labels: Sequence[str] = ()) -> str | None:
    """What the answer says against the captions or the labels; None if nothing is found.

    Args:
        answer: of a dialogue, or a description.
        captions: about the whole image.
        labels: of its regions.
    """
    known = _claims(captions)
    ours = _claims([answer])
    counts = Counter(_singular(_words(label)[-1]) for label in labels if _words(label))
    for (noun, group), words in ours.items():
        told = known.get((noun, group), set())
        if not told or told & words:
            continue
        if _too_many(words, told, answer) if group == "number" else counts[noun] < 2:  # of two, one may be black
            return f"{_said(noun, words)}, where a caption says {_said(noun, told)}"
    return _denial(answer.lower(), captions, labels)


def _said(noun: str, words: Iterable[str]) -> str:
    return repr(f"{' or '.join(sorted(words))} {noun}")


def _too_many(words: set[str], told: set[str], answer: str) -> bool:
    """More than any caption counts, or counted as all there are; two of five may be spoken of."""
    text = " ".join(_SAME.get(word, word) for word in _words(answer))
    all_there_are = any(re.search(rf"\bthere (?:are|were) (?:only )?{word}\b", text) for word in words)
    return all_there_are or max(map(_NUMBERS.index, words)) > max(map(_NUMBERS.index, told))


def _denial(answer: str, captions: Sequence[str], labels: Sequence[str]) -> str | None:
    """A thing that the answer says is not there, while a caption or a label names it."""
    text = " . ".join(captions).lower()
    denied_there = {_singular(match[1]) for match in _DENIED.finditer(text)}
    seen = {_singular(word) for label in labels for word in _words(label)[-1:]} | set(_subjects(captions))
    for match in _DENIED.finditer(answer):
        noun = _singular(match[1])
        if noun in seen and noun not in denied_there:
            return f"it says that there is no {noun}, but there is one"
    return None


def _subjects(captions: Sequence[str]) -> Iterator[str]:
    """Nouns behind an article or a number: a guess, of use only against a denial."""
    for caption in captions:
        words = _words(caption)
        for before, word in itertools.pairwise(words):
            if before in ("a", "an", "the", *_NUMBERS) and word not in _GROUP_OF:
                yield _singular(word)


def _claims(texts: Iterable[str]) -> dict[tuple[str, str], set[str]]:
    """The words of each group that are said of each noun."""
    found: dict[tuple[str, str], set[str]] = {}
    for text in texts:
        words = [_SAME.get(word, word) for word in _words(text)]
        for index, word in enumerate(words):
            if (group := _GROUP_OF.get(word)) and (noun := _noun_at(words, index)):
                found.setdefault((noun, group), set()).add(word)
    return found


def _noun_at(words: list[str], index: int) -> str | None:
    """What a word is said of: the next noun ("brown dog"), or the one before a form of be ("the dog is brown")."""
    before = words[index - 2] if index >= 2 and words[index - 1] in _BE else ""
    if before.isalpha() and before not in _BETWEEN and before not in _PRONOUNS:
        return _singular(before)
    for word in words[index + 1 :]:
        if word in _GROUP_OF or word in _BETWEEN:
            continue
        return _singular(word) if word.isalpha() and len(word) > 2 and word not in _NO_NOUNS else None
    return None


_PRONOUNS = {"it", "they", "that", "there", "which", "this", "these", "those", "he", "she"}
_NO_NOUNS = {
    "the", "and", "with", "near", "next", "that", "this", "has", "have", "are", "for", "from", "its", "his", "her",
    "their", "one", "ones", "side", "top", "front", "back", "behind", "beside", "beneath", "under", "above", "over",
    "into", "onto", "while", "other", "others", "which", "who", "sitting", "standing", "of", "upon", "at", "around",
}  # fmt: skip


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "xes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word
