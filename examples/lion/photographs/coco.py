"""COCO's photographs in a folder of the layout that ``pvit-ext data convert yolo`` reads, made of links."""

from __future__ import annotations

from pathlib import Path

import yaml

from pvit_ext.files import atomic_folder

_PARTS = {"train": "images/train2017", "val": "images/val2017"}


def lay_out(data: Path, folder: Path) -> Path:
    """Put ``data.yaml`` beside links to photographs and labels, if it is not there yet; returns the folder.

    Args:
        data: ``coco256``, with ``images`` and ``object_detection``.
        folder: to make.

    Raises:
        FileNotFoundError: when the data is not there.
    """
    source = data / "object_detection" / "config.yaml"
    if not source.is_file():
        raise FileNotFoundError(f"{source} is missing: --data takes a folder with images and object_detection")
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder, 0) as made:
            (made / "images").symlink_to((data / "images").resolve())
            (made / "labels").symlink_to((data / "object_detection" / "labels").resolve())
            names = yaml.safe_load(source.read_text(encoding="utf-8"))["names"]
            (made / "data.yaml").write_text(yaml.safe_dump({**_PARTS, "names": names}), encoding="utf-8")
    return folder


def class_names(folder: Path) -> list[str]:
    """The classes of the labels, by their numbers.

    Args:
        folder: of :func:`lay_out`.
    """
    names = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))["names"]
    return [names[number] for number in range(len(names))]
