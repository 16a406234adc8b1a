"""Which images and regions belong to which text, and the texts that tokenizers get."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pvit_ext.prompt import REGION_PLACEHOLDER
from pvit_ext.regions.region import Region, RegionError
from pvit_ext.tokens.given_regions import regions_per_sample


def regions_per_text(texts: Sequence[str], regions: Any) -> list[list[Region]]:
    """The regions of each text.

    Args:
        texts: prompts.
        regions: of each text, or of the only one; see :func:`~pvit_ext.tokens.given_regions.regions_per_sample`.

    Raises:
        RegionError: on another number of lists than of texts, or what is no region.
    """
    lists = regions_per_sample(regions, len(texts)) or [None] * len(texts)
    if len(lists) != len(texts):
        raise RegionError(
            f"regions holds {len(lists)} lists for {len(texts)} texts: give one list (or None) for each text"
        )
    return [list(own or ()) for own in lists]


def tasks_per_text(texts: Sequence[str], tasks: Sequence[str | None] | None) -> list[str | None]:
    """The task that is said of each text, None for the usual one.

    Args:
        texts: prompts.
        tasks: names, one for each text; None for the usual ones.

    Raises:
        RegionError: for another number of them, and for a single text.
    """
    if isinstance(tasks, str):
        raise RegionError(f"tasks is the text {tasks!r}: give a list of names, one for each text")
    named: list[str | None] = [None] * len(texts) if tasks is None else list(tasks)
    if len(named) != len(texts):
        raise RegionError(f"tasks holds {len(named)} for {len(texts)} texts: give one name (or None) for each")
    return named


def images_per_text(processor: Any, texts: Sequence[str], images: Any) -> list[int]:
    """How many images each text has, by its image tokens.

    Raises:
        RegionError: naming the first text that comes with another number of images.
    """
    if not all(isinstance(text, str) for text in texts) or not texts:
        raise RegionError("a call with regions needs its texts as strings, each with <region> where one is spoken of")
    token = processor.image_token
    counts, flat = [text.count(token) for text in texts], _flat(images)
    if isinstance(images, (list, tuple)) and any(isinstance(one, (list, tuple)) for one in images):
        for sample, (own, count) in enumerate(zip(images, counts, strict=False)):
            if len(_flat(own)) != count:
                raise RegionError(f"sample {sample}: {count} {token} in its text, {len(_flat(own))} images")
    if sum(counts) != len(flat):
        raise RegionError(
            f"{sum(counts)} {token} in {len(texts)} text(s), {len(flat)} images: a text has one for each image"
        )
    return counts


def nested(images: Any, counts: Sequence[int]) -> list[list[Any]]:
    """The images of each text."""
    flat = iter(_flat(images))
    return [[next(flat) for _ in range(count)] for count in counts]


def expand(text: str, token: str, positions: int) -> str:
    """A text with one token for every position that a region takes."""
    return text.replace(token, token * positions)


def take_regions(conversation: Any) -> tuple[Any, list[list[Region]]]:
    """A conversation with ``<region>`` as text for its items of type ``region``, and the regions of each conversation.

    Args:
        conversation: one, or a list of several; nothing in it is changed.

    Raises:
        RegionError: for an item without a region.
    """
    single = bool(conversation) and isinstance(conversation[0], Mapping)
    plain, found = [], []
    for messages in [conversation] if single else conversation:
        turns, regions = [], list[Region]()
        for message in messages:
            content = message.get("content")
            if isinstance(content, (list, tuple)):
                message = {**message, "content": [_as_text(item, regions) for item in content]}
            turns.append(message)
        plain.append(turns)
        found.append(regions)
    return plain[0] if single else plain, found


def _as_text(item: Any, regions: list[Region]) -> Any:
    if not isinstance(item, Mapping) or item.get("type") != "region":
        return item
    if not isinstance(region := item.get("region"), Region):
        raise RegionError(f'a region item is {{"type": "region", "region": Region.box(...)}}, got {dict(item)}')
    regions.append(region)
    return {"type": "text", "text": REGION_PLACEHOLDER}


def _flat(images: Any) -> list[Any]:
    if images is None:
        return []
    return [one for part in images for one in _flat(part)] if isinstance(images, (list, tuple)) else [images]
