"""VCR: questions whose text is a list of words and of indices in a list of detected people and things, from 0.

The right answer, and why it is right, become turns; questions of one image are one conversation. An object is called
by its class and number, ``person 2``, where it is named again, since an answer cannot hold ``<region>``. Boxes
(pixels) and outlines are in the image's ``metadata_fn``, beside it in the image folder; Shikra's copy of the data has
``boxes`` in the lines themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Conversation, Size
from pvit_ext.data.convert.base import DataFormat, Evidence, ReadOptions, Setting, SourceError
from pvit_ext.data.convert.fields import declared_size, kept, take
from pvit_ext.data.convert.formats.vcr_text import class_name, vcr_text
from pvit_ext.data.convert.json_buffer import JsonBuffer, Section
from pvit_ext.data.convert.marks import Said, compose
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shaped import paired, shaped
from pvit_ext.data.convert.shapes import boxed, numbers, outlined
from pvit_ext.data.image_files import check_file
from pvit_ext.data.tasks.choice import pick

WHY = ("Why do you think so?", "How do you know?", "What makes you say that?", "What is the reason?")
_IMAGE = re.compile(rb'"img_fn"\s*:\s*("(?:[^"\\]|\\.)*")')
Span = tuple[int, int]
Unit = list[tuple[int, Span]]
"""Lines of one image, counted from 1, and their bytes."""


class Vcr(DataFormat):
    """See the module."""

    name = "vcr"
    about = "VCR's train.jsonl or val.jsonl, or the folder of them; the image folder is vcr1images, with its metadata"
    settings: ClassVar[Mapping[str, Setting]] = {
        "split": Setting("", "which file of a folder: train (default) or val", ("", "train", "val")),
        "rationale": Setting("yes", "ask why, and answer by the right rationale", ("yes", "no")),
    }

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        self.file = self._file()
        self.buffer = JsonBuffer(self.file)

    def _file(self) -> Path:
        if self.source.is_file():
            if self.chosen["split"]:
                raise SourceError(f"{self.source} is one file: split chooses a file of a folder, leave it out")
            return self.source
        found = self.source / f"{self.chosen['split'] or 'train'}.jsonl"
        if not found.is_file():
            there = ", ".join(path.name for path in sorted(self.source.glob("*.jsonl"))) or "no *.jsonl"
            raise SourceError(f"{found} is not there; {self.source} holds {there}")
        return found

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Lines with answer_choices and objects, or a folder of such files."""
        if peek.is_folder:
            first = next((name for name in ("train.jsonl", "val.jsonl") if name in peek.files), None)
            return cls.detect(Peek(peek.path / first)) if first else None
        found = {"img_fn", "answer_choices", "objects"} <= set(peek.item)
        return Evidence(0.97, "lines with img_fn, objects and answer_choices") if found else None

    def files(self) -> list[Path]:
        """The file that is read."""
        return [self.file]

    def remarks(self) -> list[str]:
        """Which files of a folder are not read."""
        others = [path.name for path in sorted(self.source.glob("*.jsonl")) if path != self.file]
        return [f"vcr: {self.file.name} is read, not {', '.join(others)}; --set split=val"] if others else []

    @cached_property
    def _section(self) -> Section:
        return self.buffer.items()

    def units(self) -> Iterator[Unit]:
        """The lines of each image."""
        groups: dict[bytes, Unit] = {}
        for line, start, end in self.buffer.numbered(self._section):
            found = _IMAGE.search(self.buffer.read(start, end))
            groups.setdefault(found[1] if found else b"", []).append((line, (start, end)))
        yield from groups.values()

    def read(self, unit: Unit, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image with a conversation of all its questions."""
        items = []
        for line, span in unit:
            location = f"{self.file.name} line {line}"
            try:
                items.append((location, kept(self.buffer.load(*span), "a line", dict)))
            except BadItem as error:
                notes.bad(error.location or location, str(error))
        if not items:
            return
        location, first = items[0]
        path = take(first, "img_fn", str)
        metadata = first if "boxes" in first else self._metadata(first, location, notes, len(items))
        if metadata is None:
            return
        if (found := self.image_folder.look_up([path], declared_size(metadata), location, notes, len(items))) is None:
            return
        turns = _Turns(take(first, "objects", list), metadata, found[1], notes)
        for location, item in items:
            try:
                turns.add(item, location, self.chosen["rationale"] == "yes")
            except BadItem as error:
                notes.bad(error.location or location, str(error))
        if talk := turns.conversation():
            yield AnnotatedImage(found[0], found[1], str(first.get("img_id", path)), conversations=(talk,))

    def _metadata(self, item: Mapping[str, Any], location: str, notes: Notes, count: int) -> Mapping[str, Any] | None:
        name = take(item, "metadata_fn", str)
        try:
            check_file(name, "metadata_fn", None)
            value: Mapping[str, Any] = kept(json.loads(Path(self.image_folder.folder, name).read_bytes()), name, dict)
        except FileNotFoundError:
            notes.drop(
                Reason.INCOMPLETE, location, f"no {name} in {self.image_folder.folder}, it holds the boxes", count
            )
            return None
        except BadItem:
            raise
        except (OSError, ValueError) as error:
            raise BadItem(f"its metadata cannot be read: {error}", f"{location}, {name}") from error
        return value


class _Turns:
    """Collects the turns of an image."""

    def __init__(self, names: Sequence[Any], metadata: Mapping[str, Any], size: Size | None, notes: Notes) -> None:
        self.names = [class_name(kept(one, "an object", str)) for one in names]
        boxes, outlines = take(metadata, "boxes", list), metadata.get("segms") or []
        if len(boxes) != len(self.names):
            raise BadItem(f"{len(self.names)} objects, but {len(boxes)} boxes in its metadata")
        self.notes = notes
        self.regions = [
            _region(box, parts, size, notes) for box, parts in paired(boxes, outlines, ("boxes", "segms"), notes)
        ]
        self.turns: list[Said] = []

    def add(self, item: Mapping[str, Any], location: str, rationale: bool) -> None:
        """The turns of a question; nothing, with a note, where it has no right answer or names what is of no use."""
        turns = [vcr_text(take(item, "question", list), len(self.names))]
        for part in ("answer", *(["rationale"] if rationale else [])):
            choices = take(item, f"{part}_choices", list)
            if item.get(f"{part}_label") is None:
                self.notes.drop(Reason.INCOMPLETE, location, f"no {part}_label, as in the test split")
                return
            label = take(item, f"{part}_label", int)
            if not 0 <= label < len(choices):
                raise BadItem(f"{part}_label is {label} of {len(choices)} choices")
            if part == "rationale":
                turns.append(Said(pick(WHY, 0, item.get("annot_id"))))
            turns.append(vcr_text(kept(choices[label], f"{part}_choices[{label}]", list), len(self.names)))
        keys = sorted({key for turn in turns for mark in turn.marks for key in mark.keys})
        for key in keys:
            if isinstance(found := self.regions[key], Reason):
                self.notes.drop(found, location, f"it names object {key}, {self.names[key]}")
                return
        self.turns += turns

    def conversation(self) -> Conversation | None:
        """All turns."""
        texts, keys = compose(self.turns, lambda key: f"{self.names[key]} {key + 1}")
        specs = [found.region for key in keys if isinstance(found := self.regions[key], Annotation)]
        return Conversation(texts, tuple(specs)) if texts else None


def _region(box: Any, parts: Any, size: Size | None, notes: Notes) -> Annotation | Reason:
    x0, y0, x1, y1 = numbers(kept(box, "a box", list)[:4], 4, "a box")
    found = boxed((x0, y0, x1, y1), size, notes)
    if isinstance(found, Reason) or not parts:
        return found
    flat = [
        [value for point in kept(part, "a part of segms", list) for value in numbers(point, 2, "a point of segms")]
        for part in kept(parts, "segms", list)
    ]
    return shaped(found, outlined(flat, size, notes), notes)
