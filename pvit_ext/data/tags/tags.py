"""What a tag may be, and the sentence that shows the tags of an image to a model.

LION (arXiv 2311.11860) puts one sentence before a question: by a learned hint, some or all of the tags in brackets may
be used. The sentence here says the same in words of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pvit_ext.data.image_files import short
from pvit_ext.data.json_records import has_half_surrogate
from pvit_ext.data.tags.special_tokens import SpecialTokens
from pvit_ext.prompt import HINT_PLACEHOLDER

TAGS_KEY = "tags"
"""Key of a record: a list of texts. An empty list says that a tagger found nothing, no key that none looked."""
PLAIN_STYLE, HINT_STYLE = "plain", "hint"
"""The sentence without and with the learned hint in it."""
NOT_IN_ANSWERS = f"{HINT_PLACEHOLDER} stands in an answer; it belongs in a question"

_SENTENCES = {
    PLAIN_STYLE: "Rely on all, some or none of these tags of the image: [{}].",
    HINT_STYLE: f"As {HINT_PLACEHOLDER} advises, rely on all, some or none of these tags of the image: [{{}}].",
}
_PLACEHOLDER = re.compile(r"</?(?:image|image_row|region|hint)>", re.IGNORECASE)
_LEADING_IMAGES = re.compile(r"(?:\s*<image>)*\s*")
_IN_LIST = str.maketrans({",": " ", "[": "(", "]": ")"})


def clean_tags(value: Any, special: SpecialTokens | None = None) -> list[str]:
    """Tags as the sentence can list them: no comma, no bracket, single spaces, each once.

    A comma becomes a space and brackets become round ones, since both belong to the list. Of tags that differ only in
    upper and lower case the first stays.

    Args:
        value: a list of texts.
        special: tokens of the model that reads them, where it is known.

    Raises:
        ValueError: for anything else, for a tag without a letter or of several lines, and for one that holds
            ``<image>``, ``<region>``, ``<hint>`` or ``<image_row>``, which would be an image, a region, a hint or a row
            of an image, or a special token.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f'tags is a list of texts, such as ["dog", "car"], got {short(value)}')
    cleaned: dict[str, str] = {}
    for number, tag in enumerate(value):
        text = _clean(tag, f"tags[{number}]", special or SpecialTokens())
        cleaned.setdefault(text.casefold(), text)
    return list(cleaned.values())


def _clean(tag: Any, name: str, special: SpecialTokens) -> str:
    if not isinstance(tag, str):
        raise ValueError(f"{name} is a text, got {short(tag)}")
    if has_half_surrogate(tag):
        raise ValueError(f"{name} {short(tag)} holds half of a surrogate pair, no tokenizer reads that")
    if found := _PLACEHOLDER.search(tag):
        raise ValueError(
            f"{name} {short(tag)} holds {found.group()}, which stands for no text in a prompt: take it out"
        )
    if len(tag.strip().splitlines()) > 1:
        raise ValueError(f"{name} {short(tag)} has several lines: a tag is a word or a few, give each its own")
    text = " ".join(tag.translate(_IN_LIST).split())
    if not any(letter.isalnum() for letter in text):
        raise ValueError(f"{name} {short(tag)} has no letter: a tag names something that is in the image")
    if (token := special.within(text)) is not None:
        raise ValueError(f"{name} {short(tag)} holds {token}, a special token of the tokenizer: take it out")
    return text


def tags_of(record: Mapping[str, Any], special: SpecialTokens | None = None) -> list[str] | None:
    """The cleaned tags of a record or a question of a file; None where it says none.

    Args:
        record: of the JSON.
        special: see :func:`clean_tags`.

    Raises:
        ValueError: saying what is wrong with them.
    """
    if record.get(TAGS_KEY) is None:
        return None
    check_image(record.get("image") is not None)
    return clean_tags(record[TAGS_KEY], special)


def check_image(is_there: bool) -> None:
    """Refuse tags without an image.

    Raises:
        ValueError: unless it is there.
    """
    if not is_there:
        raise ValueError("it has tags and no image; tags name what is in an image")


def with_tags(question: str, tags: Sequence[str], style: str) -> str:
    """A question behind the sentence that lists the tags of its image.

    Args:
        question: images that stand at its start stay there.
        tags: of :func:`clean_tags`; without any, the question stays as it is.
        style: :data:`PLAIN_STYLE` or :data:`HINT_STYLE`.
    """
    if not tags:
        return question
    sentence, images = _SENTENCES[style].format(", ".join(tags)), _LEADING_IMAGES.match(question)
    start = images.end() if images else 0
    return f"{question[:start]}{sentence} {question[start:]}"
