"""Where the images and label files of a YOLO data set lie, by its data.yaml or by the names of its folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.fields import short
from pvit_ext.data.convert.image_folder import SUFFIXES
from pvit_ext.files import read_lines, read_text, read_yaml

_KEYS = {"names", "nc", "classes", "train"}
"""Keys of data.yaml, and of no other YAML file that lies beside it, such as args.yaml of a training."""
_SPLITS = {"train": ("train",), "val": ("val", "validation", "valid"), "test": ("test",)}


class Labelled(NamedTuple):
    """An image and its label file; one of the two may be missing.

    Args:
        name: unique in the data set.
        image: path.
        labels: path.
    """

    name: str
    image: Path | None
    labels: Path | None


class Entry(NamedTuple):
    """A part of a data set.

    Args:
        images: folder of images, or a file that lists images.
        labels: folder of their label files; None where each image tells.
    """

    images: Path
    labels: Path | None


class Folders:
    """The files of a data set.

    Args:
        source: data.yaml, or a folder.
        images: the image folder.
        split: of data.yaml, empty for all.

    Raises:
        SourceError: when there is none, or no such split.
    """

    def __init__(self, source: Path, images: Path, split: str) -> None:
        self.source, self.images, self.split = source, images, split
        self.absent: list[str] = []
        self.root = source.parent if source.is_file() else source

    @cached_property
    def data(self) -> Mapping[str, Any]:
        """What data.yaml holds, or another YAML file of the folder with its keys; empty for a folder without one."""
        if self.source.is_file():
            return _load(self.source)
        paths = sorted(self.root.glob("*.y*ml"), key=lambda path: (path.stem != "data", path.name))
        found = (_load(path) for path in paths)
        return next((value for value in found if _KEYS & value.keys()), {})

    def names(self) -> dict[int, str]:
        """Classes by number.

        Raises:
            SourceError: if nothing names them.
        """
        names = self.data.get("names", self.data.get("classes"))
        if names is None and (listed := next((path for path in self._class_files() if path.is_file()), None)):
            names = read_text(listed).split("\n")
        if not isinstance(names, (list, dict, type(None))):
            raise SourceError(f"{self.source}: names is a list, or a map from numbers to names, got {short(names)}")
        pairs = names.items() if isinstance(names, dict) else enumerate(names or [])
        try:
            found = {int(number): str(name) for number, name in pairs if str(name).strip()}
        except (ValueError, TypeError) as error:
            raise SourceError(f"{self.source}: names is a map from whole numbers, got {short(names)}") from error
        if not found:
            raise SourceError(
                f"{self.source} names no classes: give data.yaml with `names`, put classes.txt beside the labels, "
                "or say --set names=cat,dog,..."
            )
        return found

    def _class_files(self) -> list[Path]:
        return [self.root / folder / "classes.txt" for folder in (".", "labels")] + [self.root / "obj.names"]

    @cached_property
    def listed(self) -> list[Labelled]:
        """All images and label files, sorted."""
        found: dict[str, Labelled] = {}
        for entry in self._entries():
            taken = set()
            for image in _images(entry.images):
                labels = _labels_of(image, entry)
                taken.add(labels)
                self._put(found, image, labels if labels.is_file() else None)
            for labels in sorted(entry.labels.rglob("*.txt")) if entry.labels else []:
                if labels not in taken and labels.name != "classes.txt":
                    self._put(found, None, labels)
        if not found:
            raise SourceError(f"{self.source}: no image and no label file; looked in {self._entries()}")
        return [found[name] for name in sorted(found)]

    def _put(self, found: dict[str, Labelled], image: Path | None, labels: Path | None) -> None:
        path = image or labels
        assert path is not None
        root = next((one for one in (self.root, self.images) if path.is_relative_to(one)), None)
        name = (path.relative_to(root) if root else Path(*path.parts[-3:])).as_posix()
        found[name] = Labelled(name, image, labels)

    def _entries(self) -> list[Entry]:
        """What data.yaml lists, or the folders ``images``."""
        values = {
            split: next((self.data[key] for key in keys if self.data.get(key)), None) for split, keys in _SPLITS.items()
        }
        if self.split and not values.get(self.split):
            known = ", ".join(name for name, value in values.items() if value) or "none"
            raise SourceError(f"{self.source} has no split {self.split!r}; it has: {known}")
        wanted = [values[self.split]] if self.split else [value for value in values.values() if value]
        texts = [str(one) for value in wanted for one in (value if isinstance(value, list) else [value])]
        if texts:
            return self._those_there(list(dict.fromkeys(texts)))
        folders = [path for path in sorted(self.root.rglob("images")) if path.is_dir()]
        if folders:
            return [Entry(path, _labels_folder(path) or path) for path in folders]
        labels = self.root / "labels"
        return [Entry(self.images, labels if labels.is_dir() else self.root)]

    def _those_there(self, texts: list[str]) -> list[Entry]:
        """The entries of paths in data.yaml; of several, some may be absent: parts of a data set come alone."""
        found: list[Entry] = []
        problems: list[SourceError] = []
        for text in texts:
            try:
                found.append(self._entry(text))
            except SourceError as error:
                problems.append(error)
        if not found:
            raise problems[0]
        self.absent = [str(error) for error in problems]
        return found

    def _entry(self, text: str) -> Entry:
        """The folders of a path in data.yaml.

        It lies below the file's ``path``, beside the file, beside it without ``../`` as Roboflow's, or in the image
        folder while the labels lie beside the file.
        """
        base = self.root / str(self.data.get("path") or ".")
        tries = [base / text, self.root / text, self.root / text.removeprefix("../"), self.images / text]
        found = next((path for path in tries if path.exists()), None)
        if found is None:
            looked = ", ".join(dict.fromkeys(map(str, tries)))
            raise SourceError(f"{self.source}: {text} is not there; looked for {looked}")
        if found.is_file():
            return Entry(found, None)
        folders = [folder for path in (found, *tries) if (folder := _labels_folder(path))]
        return Entry(found, next((path for path in folders if path.is_dir()), found))

    def have_outlines(self) -> bool:
        """Whether a row of some label file has seven columns or more."""
        for one in self.listed:
            if one.labels is not None:
                rows = one.labels.read_bytes().split(b"\n")
                if any(len(row.split()) >= 7 for row in rows):
                    return True
        return False


def _images(entry: Path) -> Iterator[Path]:
    """The images of a folder, or of a file that lists them."""
    if entry.is_dir():
        yield from sorted(path for path in entry.rglob("*") if path.suffix.lower() in SUFFIXES)
        return
    yield from (entry.parent / line for line in read_lines(entry))  # an absolute path stays itself


def _labels_of(image: Path, entry: Entry) -> Path:
    if entry.labels is not None and image.is_relative_to(entry.images):
        return entry.labels / image.relative_to(entry.images).with_suffix(".txt")
    return (_labels_folder(image.parent) or image.parent) / f"{image.stem}.txt"


def _labels_folder(folder: Path) -> Path | None:
    """The folder of the labels: the last ``images`` of the path replaced; None if it has none."""
    parts = list(folder.parts)
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] == "images":
            return Path(*parts[:index], "labels", *parts[index + 1 :])
    return None


def _load(path: Path) -> Mapping[str, Any]:
    try:
        value = read_yaml(path)
    except ValueError as error:
        raise SourceError(str(error)[:300]) from error
    if not isinstance(value, dict):
        raise SourceError(f"{path} holds no keys; expected train, val and names as in YOLO's data.yaml")
    return value
