"""RefCOCO, RefCOCO+ and RefCOCOg as Parquet: jxu124's (boxes x0, y0, x1, y1) and lmms-lab's (x, y, width, height).

Images are looked for in the image folder; those that lmms-lab's files hold are not unpacked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Size
from pvit_ext.data.convert.base import Evidence, Setting
from pvit_ext.data.convert.fields import clean, declared_size, is_set, short, take
from pvit_ext.data.convert.formats.coco_shapes import shape_of
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.parquet_rows import ParquetRows, columns_of
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shaped import shaped
from pvit_ext.data.convert.shapes import boxed, numbers, xywh

_NUMBERED = re.compile(r"_\d+(?=\.\w+$)")


class RefCocoParquet(ParquetRows):
    """See the module."""

    name = "refcoco_parquet"
    about = "RefCOCO, RefCOCO+, RefCOCOg as Parquet of jxu124 or lmms-lab: a file, or a folder of them"
    settings: ClassVar[Mapping[str, Setting]] = {
        "split": Setting("", "train, val, testA, testB or test, where jxu124's rows say; default all"),
    }
    columns = (
        "image_path", "file_name", "bbox", "captions", "raw_anns", "raw_image_info", "split",
        "question_id", "answer", "segmentation", "iscrowd", "ref_id",
    )  # fmt: skip

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Their columns."""
        columns = columns_of(peek)
        if {"raw_anns", "captions", "bbox"} <= columns or {"answer", "segmentation", "bbox", "file_name"} <= columns:
            return Evidence(0.95, "the columns bbox, and captions or answer")
        return None

    def images(self, row: Mapping[str, Any], location: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image with one object, but for those of val and test in a folder that is read for training."""
        wanted, split = self.chosen["split"], row.get("split") or ""
        if split and wanted not in ("", split):
            notes.drop(Reason.OTHER_SPLIT, location, split)
            return
        if split not in ("", "train", wanted) and self.exclude_leaks and self.source.is_dir():
            detail = f"of {split}; --set split={split} or --no-exclude-leaks keeps it"
            notes.drop(Reason.HELD_OUT, location, detail)
            return
        path = row.get("image_path") or take(row, "file_name", str)
        names = [path, "/".join(path.split("/")[1:]), _NUMBERED.sub("", path.rsplit("/", 1)[-1])]
        declared = declared_size(_parsed(row, "raw_image_info"))
        if (found := self.image_folder.look_up([name for name in names if name], declared, location, notes)) is None:
            return
        one = _object(row, found[1], notes)
        if isinstance(one, Reason):
            notes.drop(one, location, short(row.get("bbox")))
            return
        yield AnnotatedImage(found[0], found[1], location.replace(" row ", "/"), (one,))


def _object(row: Mapping[str, Any], size: Size | None, notes: Notes) -> Annotation | Reason:
    values = numbers(take(row, "bbox", list), 4, "bbox")
    texts = row.get("captions") if "captions" in row else row.get("answer")
    annotation = _parsed(row, "raw_anns")
    if is_set(row, "iscrowd") or is_set(annotation, "iscrowd"):
        return Reason.CROWD
    fields: dict[str, Any] = {
        "captions": tuple(dict.fromkeys(text for one in texts or [] if (text := clean(one)))),
        "id": str(annotation.get("id") or row.get("question_id") or ""),
    }
    box = boxed(
        (values[0], values[1], values[2], values[3]) if "captions" in row else xywh(values), size, notes, **fields
    )
    if isinstance(box, Reason):
        return box
    return shaped(box, shape_of(annotation.get("segmentation") or _polygons(row), size, notes), notes)


def _polygons(row: Mapping[str, Any]) -> list[Any]:
    """The one polygon of lmms-lab's rows."""
    return [row["segmentation"]] if row.get("segmentation") else []


def _parsed(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A column that holds a JSON object as text; empty where there is none."""
    if not row.get(key):
        return {}
    try:
        value = json.loads(take(row, key, str))
    except json.JSONDecodeError as error:
        raise BadItem(f"{key} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadItem(f"{key} is a JSON object, got {short(value)}")
    return value
