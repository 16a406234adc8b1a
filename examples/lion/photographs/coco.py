"""COCO's photographs in a folder of the layout that ``pvit-ext data convert yolo`` reads, made of links."""

from __future__ import annotations

from collections.abc import Mapping
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
        ValueError: when the folder is there and of other data.
    """
    source = data / "object_detection" / "config.yaml"
    if not source.is_file():
        raise FileNotFoundError(f"{source} is missing: --data takes a folder with images and object_detection")
    links = {"images": data.resolve() / "images", "labels": data.resolve() / "object_detection" / "labels"}
    names = yaml.safe_load(source.read_text(encoding="utf-8"))["names"]
    about = yaml.safe_dump({**_PARTS, "names": names})
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder, 0) as made:
            for name, target in links.items():
                (made / name).symlink_to(target)
            (made / "data.yaml").write_text(about, encoding="utf-8")
    elif not _is_of(folder, links, about):
        raise ValueError(
            f"{folder} was made of {(folder / 'images').resolve().parent} as it was then, --data is {data}: start over "
            "with --fresh, or name another --output"
        )
    return folder


def _is_of(folder: Path, links: Mapping[str, Path], about: str) -> bool:
    same = all((folder / name).resolve() == target.resolve() for name, target in links.items())
    return same and (folder / "data.yaml").read_text(encoding="utf-8") == about


def class_names(folder: Path) -> list[str]:
    """The classes of the labels, by their numbers.

    Args:
        folder: of :func:`lay_out`.
    """
    names = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))["names"]
    return [names[number] for number in range(len(names))]
