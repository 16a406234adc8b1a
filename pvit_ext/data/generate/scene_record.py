"""One record about an image and its regions, in either of two forms, as a scene."""

from __future__ import annotations

from typing import Any

from pvit_ext.data.convert.annotation import SOURCE_KEY
from pvit_ext.data.convert.source_key import from_source
from pvit_ext.data.generate.scene import Scene, SceneObject, clean
from pvit_ext.data.image_files import check_file, path_of, short
from pvit_ext.data.json_records import JsonRecordError
from pvit_ext.data.region_fields import parse_region
from pvit_ext.regions.image import ImageError, image_size
from pvit_ext.regions.mask import PendingMask
from pvit_ext.regions.region import Size

PER_REGION = ("labels", "attributes", "texts", "phrases")
ABOUT_THE_IMAGE = ("captions", "relations", "description")


def annotations_of(value: Any) -> Any:
    """A record of ``pvit-ext data convert`` in the form of the user's own, from its ``source``; others as they are.

    Args:
        value: of the JSON.

    Raises:
        ValueError: for a ``source`` of another version, or about several images.
    """
    if isinstance(value, JsonRecordError):
        raise value
    if not isinstance(value, dict):
        raise ValueError(f"a record is a JSON object, got {short(value)}")
    if (known := from_source(value)) is None:
        return value
    if not isinstance(known.image, str):
        raise ValueError("it is about several images, a scene has one")
    return {
        "id": value.get("id", known.item),
        "image": known.image,
        SOURCE_KEY: value[SOURCE_KEY],
        "regions": [thing.region for thing in known.objects],
        "labels": [thing.label or None for thing in known.objects],
        "attributes": [list(thing.attributes) for thing in known.objects],
        "phrases": [list(thing.captions) for thing in known.objects],
        "captions": list(known.captions),
        "relations": [[one.subject, one.predicate, one.object] for one in known.relations],
    }


def parse_scene(value: Any, folder: str, name: str) -> Scene:
    """The scene of a record.

    Args:
        value: as :func:`annotations_of` gives it: ``image``, ``regions``, and optionally ``id``, ``labels``,
            ``attributes``, ``texts``, ``phrases`` (one entry for each region), ``captions``, ``relations``
            (``[k, predicate, k]``, from 0) and ``description``.
        folder: that the image is in.
        name: of a record without an id.

    Raises:
        ValueError: saying what is wrong.
    """
    value = {key: item for key, item in value.items() if item is not None}
    check_file(value.get("image"), "image", folder)
    file = path_of(folder, value["image"])
    try:
        size = image_size(file)
    except ImageError as error:
        raise ValueError(str(error)) from error
    objects = _objects(value, folder, size)
    return Scene(
        name=str(value.get("id", name)).encode("utf-8", "replace").decode(),
        image=value["image"],
        file=file,
        size=size,
        objects=objects,
        captions=tuple(captions_of(value)),
        relations=_relations(value.get("relations", []), len(objects)),
        description=None if "description" not in value else _text(value["description"], "description"),
    )


def _objects(value: dict[str, Any], folder: str, size: Size) -> tuple[SceneObject, ...]:
    regions = value.get("regions")
    if not isinstance(regions, list) or not regions:
        raise ValueError(f"regions is a list such as [[x0, y0, x1, y1], ...], one or more, got {short(regions)}")
    columns = {key: value.get(key, [None] * len(regions)) for key in PER_REGION}
    for key, column in columns.items():
        if not isinstance(column, list) or len(column) != len(regions):
            raise ValueError(f"{key} has one entry for each of {len(regions)} regions, got {short(column)}")
    return tuple(
        _object(item, f"regions[{number}]", folder, size, *(columns[key][number] for key in PER_REGION))
        for number, item in enumerate(regions)
    )


def _object(
    item: Any, location: str, folder: str, size: Size, label: Any, attributes: Any, text: Any, phrases: Any
) -> SceneObject:
    region = parse_region(item, location, folder)
    region = region.load(folder, location) if isinstance(region, PendingMask) else region
    if region.image:
        raise ValueError(f"{location} lies on image {region.image}, a scene has one image")
    x0, y0, x1, y1 = region.resolve(size, location).bounds(size)
    width, height = size
    return SceneObject(
        region=item,
        box=(x0 / width, y0 / height, x1 / width, y1 / height),
        pixels=(x1 - x0) * (y1 - y0),
        label=None if label is None else _text(label, location),
        attributes=tuple(_texts([] if attributes is None else attributes, "attributes")),
        text=None if text is None else _text(text, location),
        phrases=tuple(_texts([] if phrases is None else phrases, "phrases")),
    )


def _relations(value: Any, count: int) -> tuple[tuple[int, str, int], ...]:
    if not isinstance(value, list):
        raise ValueError(f"relations is a list of [number, predicate, number], got {short(value)}")
    found = []
    for item in value:
        if not (isinstance(item, list) and len(item) == 3 and {type(item[0]), type(item[2])} == {int}):
            raise ValueError(f"a relation is [number, predicate, number], got {short(item)}")
        if not all(0 <= item[index] < count for index in (0, 2)):
            raise ValueError(f"relation {short(item)} names a region that the record has not: 0 to {count - 1}")
        found.append((item[0], _text(item[1], "relations"), item[2]))
    return tuple(found)


def _texts(value: Any, what: str) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"{what} is a list of texts, got {short(value)}")
    return [text for item in value if (text := _text(item, what))]


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what}: a text is expected, got {short(value)}")
    return clean(value)


def captions_of(value: dict[str, Any]) -> list[str]:
    """The captions of a record, cleaned."""
    return _texts(value.get("captions", [value["caption"]] if "caption" in value else []), "captions")
