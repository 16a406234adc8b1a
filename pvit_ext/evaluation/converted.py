"""The annotated objects of a file of ``pvit-ext data convert``, which keeps what the source said under ``source``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pvit_ext.data.convert.annotation import SOURCE_KEY
from pvit_ext.data.records import Record, load_records
from pvit_ext.data.schema import Spec
from pvit_ext.regions.image import image_size
from pvit_ext.regions.raster import Box
from pvit_ext.regions.region import Region


@dataclass(frozen=True)
class Found:
    """One object.

    Args:
        id: number of its record and of the object in it.
        images: paths.
        spec: its region.
        box: around it, pixels; None where only its region is known, see :meth:`bounds`.
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

    def bounds(self) -> Box:
        """The box around it, pixels; of its region where the source has none."""
        if self.box is not None:
            return self.box
        size = image_size(self.images[0])
        return Record({}, (self.spec,), self.where, self.folder).regions[0].resolve(size, self.where).bounds(size)


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
    box: Box | None = tuple(item["box"]) if "box" in item else None
    spec: Spec | None = None if item.get("region") is None else record.specs[item["region"]]
    if spec is None and box is not None:
        spec = Region.box(*box)
    if spec is None:
        raise ValueError(f"{record.where}: object {id.rpartition('.')[2]} of its source has neither a region nor a box")
    return Found(
        id=id,
        images=tuple(record.image_files),
        spec=spec,
        box=box,
        label=item.get("label"),
        captions=tuple(item.get("captions", ())),
        folder=record.image_folder,
        where=f"{record.where}, object {id.rpartition('.')[2]}",
    )
