"""A record's ``source``: all that the annotations say about its image, and back to an :class:`AnnotatedImage`.

::

    "source": {"format": "coco", "item": "101", "size": [64, 48],
               "objects": [{"region": 0, "box": [8, 16, 32, 40], "label": "dog", "id": "1001"}, ...],
               "captions": [...], "relations": [[0, "on", 1], ...],
               "grounded": [{"text": "a dog on grass", "phrases": [[0, 5, [0]]]}, ...],
               "questions": [{"question": "...", "answer": "...", "regions": [0]}]}

An object's ``region`` is an index in the record's own ``regions``, or a region where the record does not ask about it;
``box`` is missing where the region is that box. Of an image's records the first holds ``source``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pvit_ext.data.convert.annotation import (
    SOURCE_KEY,
    AnnotatedImage,
    Annotation,
    Grounded,
    Question,
    RegionSpec,
    Relation,
)

_TEXTS = ("label", "id", "category")
_LISTS = ("captions", "attributes")


def to_source(name: str, image: AnnotatedImage, indices: Mapping[int, int]) -> dict[str, Any]:
    """The value of ``source``.

    Args:
        name: of the format.
        image: what is known.
        indices: of objects in the record's ``regions``, by their indices in ``image.objects``.
    """
    source: dict[str, Any] = {"format": name, "item": image.item}
    if image.size:
        source["size"] = list(image.size)
    if image.coco_id is not None:
        source["coco_id"] = image.coco_id
    if image.objects:
        source["objects"] = [_object(item, indices.get(number)) for number, item in enumerate(image.objects)]
    if image.captions:
        source["captions"] = list(image.captions)
    if image.relations:
        source["relations"] = [[item.subject, item.predicate, item.object] for item in image.relations]
    if image.grounded:
        source["grounded"] = [
            {"text": one.text, "phrases": [list(part) for part in one.phrases]} for one in image.grounded
        ]
    if image.questions:
        source["questions"] = [_filled(asdict(item)) for item in image.questions]
    return source


def _object(item: Annotation, index: int | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"region": item.region if index is None else index}
    if item.box is not None and isinstance(item.region, Mapping):
        fields["box"] = list(item.box)
    for key in (*_TEXTS, *_LISTS):
        if value := getattr(item, key):
            fields[key] = list(value) if key in _LISTS else value
    return fields


def _filled(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value}


def from_source(record: Mapping[str, Any]) -> AnnotatedImage | None:
    """What a record of ``pvit-ext data convert`` keeps about its image; None where it keeps nothing.

    Args:
        record: as it stands in the file.

    Raises:
        ValueError: for a ``source`` that this version did not write.
    """
    source = record.get(SOURCE_KEY)
    if source is None:
        return None
    try:
        image = record["image"]
        return AnnotatedImage(
            image=tuple(image) if isinstance(image, list) else image,
            size=(source["size"][0], source["size"][1]) if "size" in source else None,
            item=source["item"],
            objects=tuple(_annotation(item, record.get("regions", [])) for item in source.get("objects", [])),
            captions=tuple(source.get("captions", [])),
            relations=tuple(Relation(*item) for item in source.get("relations", [])),
            grounded=tuple(_grounded(item) for item in source.get("grounded", [])),
            questions=tuple(_question(item) for item in source.get("questions", [])),
            coco_id=source.get("coco_id"),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(
            f"record {record.get('id')!r}: {SOURCE_KEY!r} is not what `pvit-ext data convert` of this version writes "
            f"({type(error).__name__}: {error}); convert the annotations again"
        ) from error


def _annotation(item: Mapping[str, Any], regions: Sequence[RegionSpec]) -> Annotation:
    region = item["region"]
    spec: RegionSpec = regions[region] if isinstance(region, int) else region
    box = spec if not isinstance(spec, Mapping) else item.get("box")
    return Annotation(
        region=spec,
        box=None if box is None else (box[0], box[1], box[2], box[3]),
        label=item.get("label", ""),
        captions=tuple(item.get("captions", [])),
        attributes=tuple(item.get("attributes", [])),
        id=item.get("id", ""),
        category=item.get("category", ""),
    )


def _grounded(item: Mapping[str, Any]) -> Grounded:
    return Grounded(item["text"], tuple((start, end, tuple(indices)) for start, end, indices in item["phrases"]))


def _question(item: Mapping[str, Any]) -> Question:
    return Question(item["question"], item["answer"], tuple(item.get("regions", [])), item.get("id", ""))
