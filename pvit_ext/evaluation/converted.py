"""The annotated objects of a file of ``pvit-ext data convert``, which keeps what the source said under ``source``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvit_ext.data.convert.annotation import SOURCE_KEY
from pvit_ext.data.records import Record, load_records
from pvit_ext.data.schema import Spec
from pvit_ext.regions.raster import Box
from pvit_ext.regions.region import Region


@dataclass(frozen=True)
class Found:
    """One object.

    Args:
        id: number of its record and of the object in it.
        images: paths.
        spec: its region.
        box: around it, pixels; None where only a mask is known.
        label: what it is.
        captions: that describe it.
        folder: of mask files.
        where: for messages.
    """

    id: str
    images: tuple[str, ...]
    spec: Spec
    box: Box | None
    label: str | None
    captions: tuple[str, ...]
    folder: str | None
    where: str


def objects_of(path: Path, image_folder: str) -> Iterator[Found]:
    """All objects of a converted file.

    Args:
        path: of the records.
        image_folder: that their images are in.

    Raises:
        ValueError: for a file without what its source said.
    """
    some = False
    for number, record in enumerate(load_records(path, image_folder)):
        for place, item in enumerate((record.data.get(SOURCE_KEY) or {}).get("objects", ())):
            some = True
            yield _found(record, f"{number}.{place}", item)
    if not some:
        raise ValueError(
            f"{path} has no objects under {SOURCE_KEY!r}: give a file of `pvit-ext data convert` without --no-source"
        )


def _found(record: Record, id: str, item: dict[str, Any]) -> Found:
    box: Box = tuple(item["box"])
    region = item.get("region")
    return Found(
        id=id,
        images=tuple(record.image_files),
        spec=Region.box(*box) if region is None else record.specs[region],
        box=box,
        label=item.get("label"),
        captions=tuple(item.get("captions", ())),
        folder=record.image_folder,
        where=f"{record.where}, object {id.rpartition('.')[2]}",
    )
