"""One record: from JSON to what LLaVA reads and its regions, or what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pvit_ext.data.image_files import check_file, short
from pvit_ext.data.json_records import JsonRecordError, has_half_surrogate
from pvit_ext.data.region_fields import parse_region
from pvit_ext.data.unread import meant_key, unread_key, unread_placeholder, unread_placeholder_of_text
from pvit_ext.prompt import fill_placeholders, find_placeholders, parse_regions
from pvit_ext.regions.mask import PendingMask
from pvit_ext.regions.region import Region

Spec = Region | PendingMask
TASK_KEY, NO_TASK = "task", "no task named"
_SPEAKERS = ("human", "gpt")


def parse_record(value: Any, folder: str | None) -> tuple[dict[str, Any], tuple[Spec, ...]]:
    """What LLaVA reads, and one region for each of its ``<region>``.

    Args:
        value: of the JSON; keys that are null are absent.
        folder: if given, images and masks must exist in it.

    Raises:
        ValueError: saying what is wrong, without the name of the record.
    """
    if isinstance(value, JsonRecordError):
        raise value
    if not isinstance(value, dict):
        raise ValueError(f"a record is a JSON object, got {short(value)}")
    if None in value.values():
        value = {key: item for key, item in value.items() if item is not None}
    turns = _conversation(value)
    _check_image_key(value, turns)
    for number, image in enumerate(images_of(value)):
        check_file(image, f"image[{number}]" if isinstance(value["image"], list) else "image", folder)
    specs, inline = _specs(value, turns, folder)
    _check_images_of(value, turns, specs)
    data = {**value}
    data.pop("regions", None)
    if inline:
        data["conversations"] = [{**turn, "value": parse_regions(turn["value"])[0]} for turn in value["conversations"]]
    return data, specs


def _specs(value: dict[str, Any], turns: list[str], folder: str | None) -> tuple[tuple[Spec, ...], bool]:
    """The record's regions, and whether some are written inline."""
    written = value.get("regions", [])
    if not isinstance(written, list):
        raise ValueError(f"regions is a list, got {short(written)}")
    given = [parse_region(item, f"regions[{number}]", folder) for number, item in enumerate(written)]
    if "image" in value and (problem := unread_placeholder(turns)):
        raise ValueError(problem)
    found = [region for turn in turns for region in find_placeholders(turn, "conversations")]
    if not given and found.count(None) == len(found) and (problem := unread_key(value)):
        raise ValueError(problem)
    specs = tuple(fill_placeholders(found, given, "conversations"))
    return specs, len(given) < len(specs)


def _conversation(value: dict[str, Any]) -> list[str]:
    """Check the turns and return what is said; LLaVA drops a sample silently that breaks one of these rules."""
    turns = value.get("conversations")
    if not isinstance(turns, list) or not turns:
        hint = meant_key(value, "conversations")
        raise ValueError(f"conversations is a list of {{from, value}}, got {short(turns)}{hint}")
    for number, turn in enumerate(turns):
        speaker = _SPEAKERS[number % 2]
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise ValueError(f'conversations[{number}] is {{"from": "{speaker}", "value": text}}, got {short(turn)}')
        if turn.get("from") != speaker:
            raise ValueError(f"conversations[{number}] is from {short(turn.get('from'))}; human and gpt take turns")
        if not turn["value"].strip():
            raise ValueError(f"conversations[{number}] has an empty value")
        if has_half_surrogate(turn["value"]):
            raise ValueError(f"conversations[{number}] holds half of a surrogate pair, no tokenizer reads that")
    if len(turns) % 2:
        raise ValueError("conversations ends with a question, there is no answer to learn")
    return [turn["value"] for turn in turns]


def images_of(value: dict[str, Any]) -> list[Any]:
    """The images of a record: none, one, or a list of several.

    Raises:
        ValueError: for an empty list.
    """
    if "image" not in value:
        return []
    image = value["image"]
    if image == []:
        raise ValueError("image is an empty list; leave the key out where there is none")
    return image if isinstance(image, list) else [image]


def task_of(value: Mapping[str, Any]) -> str:
    """The task that a record names, :data:`NO_TASK` for none."""
    task = value.get(TASK_KEY)
    return task if isinstance(task, str) and task.strip() else NO_TASK


def kind_of(spec: Spec) -> str:
    """The kind of a region, also of a mask that is not read yet."""
    return "mask" if isinstance(spec, PendingMask) else spec.kind


def _check_image_key(value: dict[str, Any], turns: list[str]) -> None:
    """Refuse a record that would train as text because its image is under a key that is not read."""
    if "image" in value:
        return
    if hint := meant_key(value, "image"):
        regions = None if value.get("regions") else unread_key(value)
        raise ValueError(f"{regions}; {hint}" if regions else hint)
    if problem := unread_placeholder_of_text(turns):
        raise ValueError(problem)


def _check_images_of(value: dict[str, Any], turns: list[str], specs: Sequence[Spec]) -> None:
    images = len(images_of(value))
    if "<image>" in "".join(turns[1::2]):
        raise ValueError("<image> stands in an answer; it belongs in a question")
    count = sum(turn.count("<image>") for turn in turns)
    if specs and not images:
        raise ValueError(f"{len(specs)} regions but no image; a region lies on an image")
    if count != images:
        raise ValueError(f"{count} <image> placeholders but {images} image; write one <image> for each")
    for spec in specs:
        if not 0 <= spec.image < images:
            raise ValueError(f"a region lies on image {spec.image}, but the record has {images}, counted from 0")
