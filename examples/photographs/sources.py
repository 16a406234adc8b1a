"""Data sets as people have them: YOLO's and Pascal VOC's layouts, read by ``pvit-ext data convert``."""

from __future__ import annotations

import hashlib
from pathlib import Path

from examples.photographs.data import in_words
from pvit_ext.data.convert.formats.yolo_folders import Folders
from pvit_ext.data.convert.run import Job, convert
from pvit_ext.data.split import split_file
from pvit_ext.files import fingerprint

_YOLO = ("data.yaml", "config.yaml", "object_detection/config.yaml")
_VOC = "Annotations"
_READ = frozenset(".bmp .jpeg .jpg .png .tif .tiff .webp .txt .xml .yaml .yml".split())
"""What files of a data set count; tools leave caches of their own beside them."""
_HELD_OUT = {"train": 4 / 5, "val": 1 / 5}
"""Parts of a data set that names none."""


def yolo_file(root: Path) -> Path | None:
    """The YAML file of a data set in YOLO's layout."""
    return next((root / name for name in _YOLO if (root / name).is_file()), None)


def class_names(root: Path) -> list[str]:
    """The classes of a data set in YOLO's layout, by their numbers, as photographs' kinds are named.

    Args:
        root: folder of the data set.

    Raises:
        FileNotFoundError: for another folder.
    """
    if (file := yolo_file(root)) is None:
        raise FileNotFoundError(f"{root} has none of {', '.join(_YOLO)}: --data takes a folder in YOLO's layout")
    names = Folders(file, root, "").names()
    return [in_words(names[number]) for number in sorted(names)]


def contents(root: Path) -> str:
    """A short digest of the images, labels and settings of a data set: names, sizes and contents.

    Args:
        root: folder of the data set.
    """
    digest = hashlib.sha256()
    for file in sorted(one for one in root.rglob("*") if one.suffix.lower() in _READ and one.is_file()):
        digest.update(f"{file.relative_to(root)}\0{file.stat().st_size}\0{fingerprint(file)}\n".encode())
    return digest.hexdigest()[:16]


def write_parts(root: Path, out: Path) -> None:
    """Write ``train.jsonl`` and ``val.jsonl`` where they are missing, a record for each photograph.

    Args:
        root: folder of the data set, which images are relative to.
        out: folder for both.

    Raises:
        FileNotFoundError: for a folder in neither layout.
    """
    if yolo := yolo_file(root):
        for split in _HELD_OUT:
            if not (part := out / f"{split}.jsonl").is_file():
                convert(Job("yolo", yolo, root, part, settings={"split": split}, turns=0))
    elif (root / _VOC).is_dir():
        if not (every := out / "all.jsonl").is_file():
            convert(Job("voc", root, root, every, turns=0))
        if not (out / "val.jsonl").is_file():
            split_file(every, out, _HELD_OUT)
    else:
        known = ", ".join(map(str, _YOLO))
        raise FileNotFoundError(
            f"{root} has none of {known} and no {_VOC}/: --data takes a folder in YOLO's layout, with train and val, "
            "or in Pascal VOC's"
        )
