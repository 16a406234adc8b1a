"""One item of Grasp Any Region's data or of GAR-Bench: compressed run lengths, called ``<Prompt0>``, ``<Prompt1>``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Relation, Size
from pvit_ext.data.convert.chats import conversation, turns_of
from pvit_ext.data.convert.embedded import is_embedded, unpack
from pvit_ext.data.convert.fields import clean, kept, short, take
from pvit_ext.data.convert.formats.osprey import said
from pvit_ext.data.convert.image_folder import ImageFolder
from pvit_ext.data.convert.marks import put_before
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.shapes import masked

TAG = re.compile(r"<Prompt(\d+)>")
_LETTER = "Answer with the letter of the right choice."
_RELATION = ("subject_name", "predicate_name", "object_name")


def gar_images(
    item: Mapping[str, Any], image_folder: ImageFolder, folder: str, location: str, notes: Notes
) -> Iterator[AnnotatedImage]:
    """The image of an item with its conversation, or its two objects and their relation.

    Args:
        item: with mask_rle or mask_rles.
        image_folder: the image folder.
        folder: where embedded images go, empty: they are left out.
        location: file and line.
        notes: takes what is left out.

    Raises:
        BadItem: for an item that breaks the format's rules.
    """
    if (name := _image(take(item, "image", str, bytes, dict), image_folder, folder, location, notes)) is None:
        return
    if (found := image_folder.look_up([name, name.rsplit("/", 1)[-1]], None, location, notes)) is None:
        return
    regions = [_mask(one, found[1]) for one in _masks(item)]
    if set(_RELATION) <= set(item):
        yield from _related(item, found, regions, location, notes)
        return
    turns = [said(text, TAG, len(regions), 0) for text in _texts(item, notes)]
    named = {key for turn in turns for mark in turn.marks for key in mark.keys}
    unnamed = [key for key in range(len(regions)) if key not in named]
    if turns and unnamed:
        turns[0] = put_before(turns[0], unnamed)
        notes.count("regions that no text names, put before the first question", len(unnamed))
    if talk := conversation(turns, regions, location, notes):
        yield AnnotatedImage(found[0], found[1], "", conversations=(talk,))


def _image(image: Any, image_folder: ImageFolder, folder: str, location: str, notes: Notes) -> str | None:
    if isinstance(image, dict):  # as datasets keeps an image
        image = image.get("bytes") or image.get("path")
    if not is_embedded(image):
        return str(kept(image, "image", str))
    if not folder:
        problem = "the image is in the file itself; --set unpack=FOLDER writes such into the image folder"
        notes.drop(Reason.NO_IMAGE, location, problem)
        return None
    return unpack(image, image_folder, folder)


def _masks(item: Mapping[str, Any]) -> list[Any]:
    """The masks: one, several, or none for the image as a whole."""
    masks = item.get("mask_rles", item.get("mask_rle"))
    if masks is None:
        return []
    return [masks] if isinstance(masks, dict) else list(kept(masks, "mask_rle", list, dict))


def _mask(value: Any, size: Size | None) -> Annotation | Reason:
    return masked(kept(value, "a mask", dict), size)


def _texts(item: Mapping[str, Any], notes: Notes) -> list[str]:
    if "conversations" in item:
        return turns_of(item, notes)
    question, answer = take(item, "question", str), take(item, "answer", str)
    if "choices" not in item:
        return [question, answer]
    choices = [kept(one, "a choice", str) for one in take(item, "choices", list)]
    return ["\n".join([question, *choices, _LETTER]), answer]


def _related(
    item: Mapping[str, Any],
    found: tuple[str, Size | None],
    regions: list[Annotation | Reason],
    location: str,
    notes: Notes,
) -> Iterator[AnnotatedImage]:
    if len(regions) != 2:
        raise BadItem(f"a relation has two masks, got {len(regions)}")
    subject, predicate, other = (clean(take(item, key, str)) for key in _RELATION)
    objects = []
    for region, label in zip(regions, (subject, other), strict=True):
        if isinstance(region, Reason):
            notes.drop(region, location, short(label))
        else:
            objects.append(replace(region, label=label))
    relations = (Relation(0, predicate, 1),) if len(objects) == 2 else ()
    yield AnnotatedImage(found[0], found[1], "", tuple(objects), relations=relations)
