"""Scenes read from a file of records with regions."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from pvit_ext.data.generate.scene import Scene, SceneObject, clean
from pvit_ext.data.image_files import check_file, path_of, short
from pvit_ext.data.json_records import JsonRecordError, read_json_records
from pvit_ext.data.region_fields import parse_region
from pvit_ext.data.scan import name_of
from pvit_ext.regions.image import ImageError, image_size
from pvit_ext.regions.mask import PendingMask
from pvit_ext.regions.region import Size

_PER_REGION = ("labels", "attributes", "texts")


class SceneFile:
    """The scenes of a JSON Lines file or JSON array, read anew by each pass.

    Args:
        path: of the file.
        image_folder: that its images are in.
        max_bad: how many bad records are passed over.

    Attributes:
        problems: of the last pass, one line each, with file, line and id.
    """

    def __init__(self, path: str | PathLike[str], image_folder: str | PathLike[str], max_bad: int = 0) -> None:
        self.path, self.folder, self.max_bad = Path(path), str(image_folder), max_bad
        self.problems: list[str] = []

    def __iter__(self) -> Iterator[Scene]:
        self.problems = []
        names: set[str] = set()
        for found in read_json_records(self.path):
            where = name_of(self.path.name, found.line, found.value)
            try:
                scene = parse_scene(found.value, self.folder, f"{self.path.stem}-{found.line}")
                if scene.name in names:
                    raise ValueError(f"id {scene.name!r} is given to two records")
            except (ValueError, OSError) as error:
                self._add(f"{where}: {error}")
                continue
            names.add(scene.name)
            yield scene
        if not names:
            first = f": {self.problems[0]}" if self.problems else ""
            raise ValueError(f"{self.path} has no usable record{first}")

    def _add(self, problem: str) -> None:
        self.problems.append(problem)
        if len(self.problems) > self.max_bad:
            raise ValueError(
                f"{len(self.problems)} bad record(s), --max_bad_records allows {self.max_bad}:\n"
                + "\n".join(self.problems[-20:])
            )


def parse_scene(value: Any, folder: str, name: str) -> Scene:
    """The scene of a record.

    Args:
        value: of the JSON: ``image``, ``regions``, and optionally ``id``, ``labels``, ``attributes``, ``texts`` (one
            entry for each region), ``captions``, ``relations`` (``[k, predicate, k]``, from 0) and ``description``.
        folder: that the image is in.
        name: of a record without an id.

    Raises:
        ValueError: saying what is wrong.
    """
    if isinstance(value, JsonRecordError):
        raise value
    if not isinstance(value, dict):
        raise ValueError(f"a record is a JSON object, got {short(value)}")
    value = {key: item for key, item in value.items() if item is not None}
    check_file(value.get("image"), "image", folder)
    file = path_of(folder, value["image"])
    try:
        size = image_size(file)
    except ImageError as error:
        raise ValueError(str(error)) from error
    objects = _objects(value, folder, size)
    captions = value.get("captions", [value["caption"]] if "caption" in value else [])
    return Scene(
        name=str(value.get("id", name)).encode("utf-8", "replace").decode(),
        image=value["image"],
        file=file,
        size=size,
        objects=objects,
        captions=tuple(_texts(captions, "captions")),
        relations=_relations(value.get("relations", []), len(objects)),
        description=None if "description" not in value else _text(value["description"], "description"),
    )


def _objects(value: dict[str, Any], folder: str, size: Size) -> tuple[SceneObject, ...]:
    regions = value.get("regions")
    if not isinstance(regions, list) or not regions:
        raise ValueError(f"regions is a list such as [[x0, y0, x1, y1], ...], one or more, got {short(regions)}")
    columns = {key: value.get(key, [None] * len(regions)) for key in _PER_REGION}
    for key, column in columns.items():
        if not isinstance(column, list) or len(column) != len(regions):
            raise ValueError(f"{key} has one entry for each of {len(regions)} regions, got {short(column)}")
    return tuple(
        _object(item, f"regions[{number}]", folder, size, *(columns[key][number] for key in _PER_REGION))
        for number, item in enumerate(regions)
    )


def _object(item: Any, where: str, folder: str, size: Size, label: Any, attributes: Any, text: Any) -> SceneObject:
    region = parse_region(item, where, folder)
    region = region.load(folder, where) if isinstance(region, PendingMask) else region
    if region.image:
        raise ValueError(f"{where} lies on image {region.image}, a scene has one image")
    x0, y0, x1, y1 = region.resolve(size, where).bounds(size)
    width, height = size
    return SceneObject(
        region=item,
        box=(x0 / width, y0 / height, x1 / width, y1 / height),
        pixels=(x1 - x0) * (y1 - y0),
        label=None if label is None else _text(label, where),
        attributes=tuple(_texts([] if attributes is None else attributes, "attributes")),
        text=None if text is None else _text(text, where),
    )


def _relations(value: Any, count: int) -> tuple[tuple[int, str, int], ...]:
    if not isinstance(value, list):
        raise ValueError(f"relations is a list of [number, predicate, number], got {short(value)}")
    found = []
    for item in value:
        if not (isinstance(item, list) and len(item) == 3 and {type(item[0]), type(item[2])} == {int}):
            raise ValueError(f"a relation is [number, predicate, number], got {short(item)}")
        if not all(0 <= item[place] < count for place in (0, 2)):
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
