"""Regions with captions: of a converted file, and the two test sets of Visual Genome that published numbers are on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pvit_ext.data.image_files import find_file
from pvit_ext.data.region_fields import parse_region
from pvit_ext.evaluation.coco_file import CocoFile
from pvit_ext.evaluation.converted import Found, objects_of
from pvit_ext.evaluation.fields import as_text, text_of
from pvit_ext.files import read_text

CONVERTED = "a converted file"
GRIT = "Visual Genome as GRiT tests it (test_caption.json)"
PIXELREFER = "Visual Genome as PixelRefer tests it (vg_val_5000.json)"


def kind_of(path: Path) -> str:
    """Which of the three a file is."""
    try:
        values = json.loads(read_text(path))
    except ValueError:
        return CONVERTED  # JSON Lines
    if isinstance(values, dict) and "annotations" in values:
        return GRIT
    first = values[0] if isinstance(values, list) and values else None
    return PIXELREFER if isinstance(first, dict) and {"caption", "mask"} <= first.keys() else CONVERTED


def captioned_regions(path: Path, image_folder: str, leave_out: Callable[[str], None]) -> Iterator[Found]:
    """The regions of a file with their captions.

    Args:
        path: of the file.
        image_folder: that its images are in.
        leave_out: is told why something of the file is no region.

    Raises:
        ValueError: naming what is none of its kind.
    """
    readers: dict[str, Callable[[Path, str], Iterator[Found]]] = {
        CONVERTED: objects_of,
        GRIT: partial(_grit, leave_out=leave_out),
        PIXELREFER: _pixelrefer,
    }
    return readers[kind_of(path)](path, image_folder)


def _grit(path: Path, image_folder: str, leave_out: Callable[[str], None]) -> Iterator[Found]:
    """COCO's layout with a caption for each annotation; in the test file each phrase has an image of its own."""
    for item, image in CocoFile.read(path).objects(leave_out):
        if "caption" not in item:
            raise ValueError(f"{path.name} annotation {item['id']} has no caption: give GRiT's test_caption.json")
        x, y, width, height = item["bbox"]
        try:
            file = _image(image_folder, text_of(image, "file_name"))
            yield _found(path, str(item["id"]), file, [x, y, x + width, y + height], item)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path.name} annotation {item['id']} is none of GRiT's ({error!r})") from error


def _pixelrefer(path: Path, image_folder: str) -> Iterator[Found]:
    for number, item in enumerate(json.loads(read_text(path))):
        try:
            yield _found(
                path,
                str(number),
                _image(image_folder, as_text(item["image"][0], "image")),
                {"mask": item["mask"][0]},
                item,
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f"{path.name} item {number} is none of PixelRefer's ({error!r})") from error


def _image(folder: str, name: str) -> str:
    """The path of one of Visual Genome's images, which come in two folders."""
    found = (find_file(folder, part + name) for part in ("", "VG_100K/", "VG_100K_2/"))
    return next((path for path in found if path is not None), f"{folder}/{name}")


def _found(path: Path, id: str, image: str, region: Any, item: dict[str, Any]) -> Found:
    location = f"{path.name} {id}"
    box = None if isinstance(region, dict) else (region[0], region[1], region[2], region[3])
    return Found(
        id, (image,), parse_region(region, location, None), box, None, (text_of(item, "caption"),), None, location
    )
