"""The annotated objects of a file of ``pvit-ext data convert``, which keeps what the source said under ``source``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pvit_ext.data.convert.annotation import SOURCE_KEY, Annotation
from pvit_ext.data.convert.source_key import from_source
from pvit_ext.data.image_files import path_of
from pvit_ext.data.json_records import JsonRecordError, read_json_records
from pvit_ext.data.region_fields import parse_region
from pvit_ext.data.scan import name_of
from pvit_ext.data.schema import Spec
from pvit_ext.evaluation.sample import Sample
from pvit_ext.regions.image import image_size
from pvit_ext.regions.raster import Box


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
        location: for messages.
    """

    id: str
    images: tuple[str, ...]
    spec: Spec
    box: Box | None
    label: str | None
    captions: tuple[str, ...]
    folder: str | None
    location: str

    def bounds(self) -> Box:
        """The box around it, pixels; of its region where the source has none."""
        if self.box is not None:
            return self.box
        size = image_size(self.images[0])
        (region,) = Sample(self.id, self.images, "", "", (self.spec,), self.folder, location=self.location).regions()
        return region.resolve(size, self.location).bounds(size)


def objects_of(path: Path, image_folder: str) -> Iterator[Found]:
    """All objects of a converted file; each image's are in the first of its records.

    Args:
        path: of the records.
        image_folder: that their images are in.

    Raises:
        ValueError: naming a record that cannot be read, or for a file without what its source said.
    """
    some = False
    for number, found in enumerate(read_json_records(path)):
        location = name_of(path.name, found.line, found.value)
        if isinstance(found.value, JsonRecordError) or not isinstance(found.value, dict):
            raise ValueError(f"{location} is no record: {found.value}")
        if (known := from_source(found.value)) is None:
            continue
        names = [known.image] if isinstance(known.image, str) else known.image
        images = tuple(path_of(image_folder, name) for name in names)
        for index, item in enumerate(known.objects):
            some = True
            yield _found(item, f"{number}.{index}", images, image_folder, f"{location}, object {index}")
    if not some:
        raise ValueError(
            f"{path} has no objects under {SOURCE_KEY!r}: give a file of `pvit-ext data convert` without --no-source"
        )


def _found(item: Annotation, id: str, images: tuple[str, ...], folder: str, location: str) -> Found:
    spec = parse_region(item.region, location, folder)
    return Found(id, images, spec, item.box, item.label or None, tuple(item.captions), folder, location)
