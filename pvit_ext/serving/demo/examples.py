"""The pictures to begin with: records with regions and questions, ours or the user's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pvit_ext.data.convert.encode_mask import encode_mask
from pvit_ext.data.records import Record, load_records
from pvit_ext.data.tags.tags import TAGS_KEY, clean_tags
from pvit_ext.regions.image import load_image
from pvit_ext.regions.region import Region
from pvit_ext.serving.demo.pictures import data_url

BUILT_IN = Path(__file__).parent / "examples"
MOST_EXAMPLES = 12
_THUMBNAIL = 160


@dataclass(frozen=True)
class Example:
    """A record that is offered on the page.

    Args:
        file: of its picture.
        question: its first one, with ``<region>``.
        shapes: its regions as the page sends them.
        tags: of its picture.
    """

    file: Path
    question: str
    shapes: tuple[dict[str, Any], ...]
    tags: tuple[str, ...] = ()

    def thumbnail(self) -> str:
        """Its picture, small, as a data URL."""
        image = load_image(self.file)
        image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
        return data_url(image, "JPEG")


def load_examples(records: Path | None, images: Path | None) -> list[Example]:
    """The first records of a file that have one picture.

    Args:
        records: JSON array or JSON Lines; None for those that come with the package.
        images: folder of their pictures.

    Raises:
        ValueError: for a file with bad records, or with none that has one picture.
    """
    if records is None:
        records, images = BUILT_IN / "records.jsonl", BUILT_IN
    found = []
    for record in load_records(records, images):
        if len(record.image_files) == 1:
            found.append(_example(record))
        if len(found) == MOST_EXAMPLES:
            break
    if not found:
        raise ValueError(f"{records} has no record with one picture; --examples takes records with pictures")
    return found


def _example(record: Record) -> Example:
    file = Path(record.image_files[0])
    question = record.data["conversations"][0]["value"].replace("<image>", "").strip()
    size = load_image(file).size
    regions = record.resolve(size)[: question.count("<region>")]
    tags = clean_tags(record.data.get(TAGS_KEY) or [])
    return Example(file, question, tuple(shape_of(region) for region in regions), tuple(tags))


def shape_of(region: Region) -> dict[str, Any]:
    """A resolved region as it stands in a data file, in pixels."""
    if region.pixels is not None:
        return {"mask": encode_mask(region.pixels)}
    if region.kind == "box":
        (x0, y0), (x1, y1) = region.points
        return {"box": [x0, y0, x1, y1]}
    if region.kind == "point":
        return {"point": list(region.points[0])}
    outlines = [[list(point) for point in points] for points in region.outlines()]
    return {region.kind: outlines[0] if len(outlines) == 1 else outlines}
