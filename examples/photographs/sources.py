"""Data sets as people have them: YOLO's and Pascal VOC's layouts, read by ``pvit-ext data convert``."""

from __future__ import annotations

from pathlib import Path

from pvit_ext.data.convert.run import Job, convert
from pvit_ext.data.split import split_file

_YOLO = ("data.yaml", "config.yaml", "object_detection/config.yaml")
_VOC = "Annotations"
_HELD_OUT = {"train": 4 / 5, "val": 1 / 5}
"""Parts of a data set that names none."""


def write_parts(root: Path, out: Path) -> None:
    """Write ``train.jsonl`` and ``val.jsonl`` where they are missing, a record for each photograph.

    Args:
        root: folder of the data set, which images are relative to.
        out: folder for both.

    Raises:
        FileNotFoundError: for a folder in neither layout.
    """
    if yolo := next((root / name for name in _YOLO if (root / name).is_file()), None):
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
