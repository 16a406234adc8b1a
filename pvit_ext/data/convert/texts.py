"""Whether a record's texts are what a record may hold: sources hold any text, also that of other tools' tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pvit_ext.data.json_records import has_half_surrogate
from pvit_ext.data.unread import unread_placeholder
from pvit_ext.prompt import IMAGE_PLACEHOLDER, REGION_PLACEHOLDER

_MARKUP = re.compile(r"</?Region>|</region>")


def problem_of(record: Mapping[str, Any]) -> str | None:
    """What is wrong with a record's texts, None if nothing is.

    Args:
        record: that a task wrote.
    """
    texts = [turn["value"] for turn in record["conversations"]]
    if empty := [number for number, text in enumerate(texts) if not text.strip()]:
        return f"turn {empty[0]} is empty text"
    regions, images = len(record.get("regions", [])), record["image"]
    images = len(images) if isinstance(images, list) else 1
    text = "\n".join(texts)
    if text.count(REGION_PLACEHOLDER) != regions:
        return f"{text.count(REGION_PLACEHOLDER)} {REGION_PLACEHOLDER} in its texts for {regions} regions"
    if text.count(IMAGE_PLACEHOLDER) != images:
        return f"{text.count(IMAGE_PLACEHOLDER)} {IMAGE_PLACEHOLDER} in its texts for {images} image"
    if IMAGE_PLACEHOLDER in "".join(texts[1::2]):
        return f"{IMAGE_PLACEHOLDER} stands in an answer"
    if found := _MARKUP.search(text):
        return f"{found[0]} in a text"
    if has_half_surrogate(text):
        return "a text holds half of a surrogate pair, no tokenizer reads that"
    return unread_placeholder(texts)
