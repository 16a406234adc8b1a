"""Pascal VOC: an XML file of boxes for each image.

VOC's own files count pixels from 1 and inclusively, ``[xmin - 1, ymin - 1, xmax, ymax]``. LabelImg, Roboflow and CVAT
write the same XML from 0, with edges that are continuous (LabelImg writes 1 where it means 0). No field says which.
``origin=auto`` takes 1 where the files name PASCAL VOC as their source and hold no coordinate 0, else 0, and the report
says so.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Size
from pvit_ext.data.convert.base import Evidence, ReadOptions, Setting, SourceError
from pvit_ext.data.convert.fields import clean, short
from pvit_ext.data.convert.file_items import FileItems, not_there
from pvit_ext.data.convert.formats.voc_masks import load_segments, with_mask
from pvit_ext.data.convert.image_folder import SUFFIXES
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shapes import boxed, numbers
from pvit_ext.files import read_lines

_EDGES = ("xmin", "ymin", "xmax", "ymax")
_ZERO = re.compile(rb"<[xy]min>\s*0*(?:\.0*)?\s*</")
_PASCAL = re.compile(rb"<source>.*?PASCAL.*?</source>", re.DOTALL | re.IGNORECASE)
_FLAGS = ("truncated", "difficult", "occluded")


class Voc(FileItems):
    """See the module."""

    name = "voc"
    about = "Pascal VOC: a folder with Annotations/*.xml, or of XML files, or one XML file"
    closed = True  # all objects of its classes are marked
    settings: ClassVar[Mapping[str, Setting]] = {
        "origin": Setting(
            "auto", "what the first pixel is called: 1 in VOC's own files, 0 elsewhere", ("auto", "0", "1")
        ),
        "split": Setting("", "only the images that ImageSets/Main/SPLIT.txt lists"),
        "masks": Setting("no", "regions are masks of SegmentationObject/*.png where there are some", ("yes", "no")),
    }

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        self.origin, self._why, self._several = 0, "", False
        self._absent: list[str] = []

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """XML with the root ``annotation`` and a ``bndbox``, or a folder of such files."""
        if not peek.is_folder:
            is_voc = peek.xml_root == "annotation" and "<polygon>" not in peek.head and "<nobndbox>" not in peek.head
            return Evidence(0.9, "an XML root `annotation`") if is_voc else None
        if peek.has(r"(?:.*/)?Sentences/[^/]*\.txt"):
            return None
        first = next((name for name in peek.files if name.endswith(".xml")), None)
        if first is None or cls.detect(Peek(peek.path / first)) is None:
            return None
        return Evidence(0.9, f"XML files with a root `annotation`, such as {first}")

    @cached_property
    def _folders(self) -> list[Path]:
        """Folders of XML files: all that are called Annotations, as VOCdevkit has one a year, else the source."""
        return [path for path in sorted(self.source.rglob("Annotations")) if path.is_dir()] or [self.source]

    def list_files(self) -> list[Path]:
        """The XML files of all folders, or those that the split's lists name."""
        if self.source.is_file():
            if self.chosen["split"]:
                raise SourceError(f"{self.source} is one file: split chooses files of a folder, leave it out")
            return [self.source]
        found = [path for folder in self._folders for path in sorted(folder.rglob("*.xml"))]
        if self._lists:
            names = dict.fromkeys(line.split()[0] for path in self._lists for line in read_lines(path))
            found = [path for path in found if path.stem in names]
            stems = {path.stem for path in found}
            self._absent = [name for name in names if name not in stems]
        if not found:
            raise SourceError(f"{self.source} holds no XML file{' of the split' if self.chosen['split'] else ''}")
        return list(dict.fromkeys(found))

    @cached_property
    def _lists(self) -> list[Path]:
        """The lists of the split."""
        if not (split := self.chosen["split"]):
            return []
        list_folders = [folder.parent / "ImageSets" / "Main" for folder in self._folders]
        if not (found := [path for folder in list_folders if (path := folder / f"{split}.txt").is_file()]):
            known = ", ".join(sorted({path.stem for folder in list_folders for path in folder.glob("*.txt")})) or "none"
            raise SourceError(f"{list_folders[0] / split}.txt is not there; splits are {known}")
        return found

    def files(self) -> list[Path]:
        """All XML files, the lists of the split, and the segments."""
        folders = {path.parent.parent / "SegmentationObject" for path in self.listed}
        masks = [path for folder in sorted(folders) for path in sorted(folder.glob("*.png"))]
        return [*self.listed, *self._lists, *(masks if self.chosen["masks"] == "yes" else [])]

    def units(self) -> Iterator[Path]:
        """Each file."""
        self.origin, self._why = self._origin()
        self._several = len({path.parent for path in self.listed}) > 1
        yield from super().units()

    def _origin(self) -> tuple[int, str]:
        """The number of the first pixel, and how it is known."""
        if self.chosen["origin"] != "auto":
            return int(self.chosen["origin"]), ""
        first = self.listed[0]
        if not _PASCAL.search(first.read_bytes()):
            return 0, f"{first.name} does not name PASCAL VOC as its source"
        zero = next((path for path in self.listed if _ZERO.search(path.read_bytes())), None)
        return (
            (0, f"{zero.name} has a coordinate 0") if zero else (1, "the source is PASCAL VOC, and no coordinate is 0")
        )

    def remarks(self) -> list[str]:
        """What the first pixel was called, and why; and which images of the split have no file."""
        other = f"--set origin={1 - self.origin} if that is wrong"
        said = [f"voc: pixels are counted from {self.origin}: {self._why}; {other}"] if self._why else []
        return said + not_there("voc", self._absent, "XML file")

    def images(self, unit: Path, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image of a file."""
        try:
            root = ET.parse(unit).getroot()
        except (ET.ParseError, ValueError, LookupError) as error:
            raise BadItem(f"not valid XML: {error}; expected VOC's <annotation>") from error
        if root.tag != "annotation":
            raise BadItem(f"the root is <{root.tag}>; expected VOC's <annotation>")
        objects = root.findall("object")  # direct children: parts lie inside, with boxes of their own
        declared = self._size(root)
        named = clean(root.findtext("filename"))
        own = [f"{unit.stem}{suffix}" for suffix in _suffixes(named, unit.stem)]
        names = [*(self._beside(unit, own) if self._several else []), *own, named]
        searched = [name for name in (*own, named) if not _may_be_segments(name, named)]
        found = self.image_folder.look_up(names, declared, unit.name, notes, len(objects), searched=searched)
        if found is None:
            return
        segments = load_segments(unit, found[1]) if self.chosen["masks"] == "yes" else None
        if segments is None and self.chosen["masks"] == "yes":
            notes.count("images without SegmentationObject, kept with boxes")
        kept = []
        for number, item in enumerate(objects, 1):
            if (one := self._object(item, unit, found[1], notes)) is not None:
                kept.append(one if segments is None else with_mask(one, number, segments, notes))
        name = unit.relative_to(self.source).with_suffix("").as_posix() if self._several else unit.stem
        yield AnnotatedImage(found[0], found[1], name, tuple(kept))

    def _beside(self, unit: Path, names: list[str]) -> list[str]:
        """Names in the folder of images that belongs to a file's own, where a source has several."""
        folders = (unit.parent.parent / "JPEGImages", unit.parent)
        return [found for folder in folders for name in names for found in self.image_folder.inside(folder / name)]

    def _size(self, root: ET.Element) -> Size | None:
        """The size that the file gives; None for none, or 0 x 0."""
        texts = [clean(root.findtext(f"size/{side}")) for side in ("width", "height")]
        try:
            width, height = (int(float(text or 0)) for text in texts)
        except (ValueError, OverflowError) as error:
            raise BadItem(f"size is {short(texts)}; expected two whole numbers") from error
        return (width, height) if width and height else None

    def _object(self, item: ET.Element, unit: Path, size: Size | None, notes: Notes) -> Annotation | None:
        name = clean(item.findtext("name"))
        location = f"{unit.name} {name or 'object'}"
        fields: dict[str, Any] = {
            "label": name.replace("_", " "),
            "category": name if "_" in name else "",
            "attributes": tuple(flag for flag in _FLAGS if clean(item.findtext(flag)) == "1"),
        }
        try:
            x0, y0, x1, y1 = edges(item)
            found = boxed((x0 - self.origin, y0 - self.origin, x1, y1), size, notes, **fields)
        except BadItem as error:
            notes.bad(location, str(error))
            return None
        if isinstance(found, Reason):
            notes.drop(found, location, f"{[x0, y0, x1, y1]}")
            return None
        return found


def edges(item: ET.Element) -> list[float]:
    """Left, top, right and bottom of an object as the file gives them."""
    texts = [clean(item.findtext(f"bndbox/{edge}")) for edge in _EDGES]
    try:
        return numbers([float(text) for text in texts], 4, "bndbox")
    except ValueError as error:
        raise BadItem(f"bndbox is {short(dict(zip(_EDGES, texts, strict=True)))}; expected four numbers") from error


def _suffixes(named: str, stem: str) -> list[str]:
    """The suffixes of the image: ``filename``'s where that is the image, then the usual ones; PNG may be segments."""
    own = Path(named).suffix if Path(named).stem == stem else ""
    return list(dict.fromkeys([*([own] if own else []), ".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp"]))


def _may_be_segments(name: str, named: str) -> bool:
    """Whether a file of this name, found anywhere, may be the segments of the image that ``filename`` names in full."""
    suffix = Path(named).suffix.lower()
    return Path(name).suffix.lower() == ".png" != suffix and suffix in SUFFIXES
