"""YOLO and YOLO-seg: a text file of boxes or outlines for each image, in fractions of its sides.

A row is a class, counted from 0, and centre, width and height, or the points of an outline. Six columns in a data set
without outlines end in a prediction's confidence, which is not read. An image without a label file, or with an empty
one, holds no objects; a label file without an image is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Size
from pvit_ext.data.convert.base import DataFormat, Evidence, ReadOptions, Setting
from pvit_ext.data.convert.formats.yolo_folders import Folders, Labelled
from pvit_ext.data.convert.image_folder import tails
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shapes import boxed, centred, outlined, scaled
from pvit_ext.files import read_text

_LOWEST, _HIGHEST = -0.01, 1.01
"""The numbers that ultralytics takes; others are pixels, or damage."""


class _Row(NamedTuple):
    line: int
    number: int
    values: list[float]


class Yolo(DataFormat):
    """See the module."""

    name = "yolo"
    about = "YOLO and YOLO-seg: data.yaml, or a folder with images/ and labels/"
    closed = True
    settings: ClassVar[Mapping[str, Setting]] = {
        "split": Setting("", "train, val or test of data.yaml; default all that it names"),
        "names": Setting("", "the classes in order, with commas, where no data.yaml or classes.txt names them"),
        "rows": Setting("auto", "what rows hold", ("auto", "boxes", "outlines", "pose")),
    }

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        self.names: dict[int, str] = {}
        self.keypoints = self.outlines = False

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """A data.yaml, or label files in a folder ``labels``."""
        if not peek.is_folder:
            lines = [line.split(":")[0].strip() for line in peek.head.splitlines() if line[:1].strip()]
            if peek.path.suffix.lower() in (".yaml", ".yml") and {"names", "nc"} & set(lines):
                return Evidence(0.95, "the keys of YOLO's data.yaml")
            return None
        if peek.has(r"(?:.*/)?labels/(?:.*/)?[^/]+\.txt"):
            return Evidence(0.85, "a folder labels with text files")
        return None

    @cached_property
    def folders(self) -> Folders:
        """Which images and label files there are."""
        return Folders(self.source, Path(self.image_folder.folder), self.chosen["split"])

    def files(self) -> list[Path]:
        """All label files, and data.yaml."""
        labels = [one.labels for one in self.folders.listed if one.labels]
        return [*([self.source] if self.source.is_file() else []), *labels]

    def total(self) -> int:
        """Images and label files without one."""
        return len(self.folders.listed)

    def remarks(self) -> list[str]:
        """Which paths of data.yaml are not there."""
        return [f"yolo: left out: {problem}" for problem in self.folders.absent]

    def classes(self) -> list[str]:
        """The names of data.yaml."""
        return [name.replace("_", " ").strip() for name in self.names.values()]

    def units(self) -> Iterator[Labelled]:
        """Each image with its label file."""
        given = self.chosen["names"]
        self.names = dict(enumerate(map(str.strip, given.split(",")))) if given else self.folders.names()
        self.keypoints = self.chosen["rows"] == "pose" or "kpt_shape" in self.folders.data
        rows = self.chosen["rows"]
        self.outlines = rows == "outlines" or (rows == "auto" and not self.keypoints and self.folders.have_outlines())
        yield from self.folders.listed

    def read(self, unit: Labelled, notes: Notes) -> Iterator[AnnotatedImage]:
        """One image."""
        rows = self._rows(unit, notes) if unit.labels else []
        location = unit.labels.name if unit.labels else str(unit.name)
        if unit.image is None:
            notes.drop(Reason.NO_IMAGE, location, f"no image for {unit.labels}", max(len(rows), 1))
            return
        path = unit.image.as_posix()
        names = [*(self.image_folder.inside(unit.image) or [path]), *tails(path, 3)]
        found = self.image_folder.look_up(names, None, location, notes, max(len(rows), 1))
        if found is None:
            return
        if found[1] is None:
            raise BadItem("labels are fractions of an image's size, so images must be opened", location)
        objects = [one for row in rows if (one := self._object(row, location, found[1], notes)) is not None]
        yield AnnotatedImage(found[0], found[1], unit.name, tuple(objects))

    def _rows(self, unit: Labelled, notes: Notes) -> list[_Row]:
        assert unit.labels is not None
        try:
            text = read_text(unit.labels)
        except ValueError as error:
            raise BadItem(str(error), unit.labels.name) from error
        rows, seen = [], set()
        for line, words in enumerate(map(str.split, text.split("\n")), 1):
            if not words:
                continue
            if (key := tuple(words)) in seen:
                notes.drop(Reason.DUPLICATE, f"{unit.labels.name} line {line}", "the same row stands above")
                continue
            seen.add(key)
            try:
                rows.append(self._row(line, words))
            except BadItem as error:
                notes.bad(f"{unit.labels.name} line {line}", str(error))
        return rows

    def _row(self, line: int, words: list[str]) -> _Row:
        try:
            number, *values = map(float, words)
        except ValueError as error:
            raise BadItem(f"expected a class and fractions, got {' '.join(words)[:60]!r}") from error
        if number not in self.names:  # a float is equal to the whole number that it is
            raise BadItem(f"class {number:g} has no name; names are of {min(self.names)}..{max(self.names)}")
        if self.keypoints or (len(values) == 5 and not self.outlines):
            values = values[:4]  # behind it key points, or a prediction's confidence
        if len(values) != 4 and (len(values) < 6 or len(values) % 2 or self.chosen["rows"] == "boxes"):
            raise BadItem(f"{len(words)} columns; expected 5 for a box, or a class and three or more points x y")
        if wrong := [value for value in values if not _LOWEST <= value <= _HIGHEST]:
            raise BadItem(f"{wrong[0]:g} is no fraction of a side; expected numbers of 0..1")
        return _Row(line, int(number), values)

    def _object(self, row: _Row, location: str, size: Size, notes: Notes) -> Annotation | None:
        name = self.names[row.number]
        label = name.replace("_", " ").strip()
        fields = {"label": label, "category": name if name != label else "", "id": f"{row.line}"}
        values: Any = centred(row.values) if len(row.values) == 4 else row.values
        pixels = scaled(values, size)
        if len(values) == 4:
            found = boxed((pixels[0], pixels[1], pixels[2], pixels[3]), size, notes, of_fractions=True, **fields)
        else:
            found = outlined([pixels], size, notes, of_fractions=True, **fields)
        if isinstance(found, Reason):
            notes.drop(found, f"{location} line {row.line}", f"{name} {row.values[:4]}")
            return None
        return found
