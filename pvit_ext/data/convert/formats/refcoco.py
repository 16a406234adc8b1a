"""RefCOCO, RefCOCO+ and RefCOCOg: sentences that refer to COCO's objects.

Images of val and test are left out where no split is asked for, and of train where an image is in both, unless
``--no-exclude-leaks`` is given.

``refs(...).p`` is a pickle of Python 2. It is read by an unpickler that makes nothing but lists, dicts, numbers and
text, so that a hostile file runs nothing. Boxes and outlines come from ``instances.json`` beside it.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Grounded, Size
from pvit_ext.data.convert.base import Evidence, ReadOptions, Setting, SourceError
from pvit_ext.data.convert.chats import ChatItems
from pvit_ext.data.convert.fields import clean, declared_size, kept, short, take
from pvit_ext.data.convert.formats.coco import NO_NAME, Coco, Span, Unit
from pvit_ext.data.convert.image_folder import tails
from pvit_ext.data.convert.json_buffer import JsonBuffer
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shapes import boxed, numbers
from pvit_ext.data.summary import counted


class RefCoco(Coco):
    """See the module."""

    name = "refcoco"
    about = "RefCOCO, RefCOCO+, RefCOCOg: the folder with refs(...).p and instances.json, or the .p file"
    closed = False  # objects that no sentence refers to are left out
    settings: ClassVar[Mapping[str, Setting]] = {
        "split": Setting("", "train, val, testA, testB or test; default all"),
        "by": Setting("", "unc, umd or google, where a folder holds several refs(...).p"),
    }

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        folder = source if source.is_dir() else source.parent
        self.refs_file = self._refs_file(folder)
        self.buffer = JsonBuffer(folder / "instances.json")
        self.sentences: dict[int, list[str]] = {}
        self.parts: dict[int, str] = {}
        """The parts of images of val and test."""
        self.wanted: dict[int, set[int]] = {}
        """Objects that sentences are about, by image."""
        self._unlisted: list[int] = []
        if not self.buffer.path.is_file():
            raise SourceError(f"{self.buffer.path} is not there; boxes of {self.refs_file.name} come from it")

    def _refs_file(self, folder: Path) -> Path:
        by = self.chosen["by"]
        if self.source.is_file():
            if by and self.source.name != f"refs({by}).p":
                raise SourceError(f"{self.source} is one file: by={by} chooses a file of a folder, leave it out")
            return self.source
        found = sorted(folder.glob(f"refs({by or '*'}).p"))
        if len(found) != 1:
            names = ", ".join(path.name for path in sorted(folder.glob("refs(*).p"))) or "no refs(...).p"
            raise SourceError(f"{folder} holds {names}; say which with --set by=unc, umd or google")
        return found[0]

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Files ``refs(...).p``."""
        found = peek.has(r"refs\(.*\)\.p") if peek.is_folder else peek.path.match("refs(*).p")
        return Evidence(0.95, "a name refs(...).p") if found else None

    def files(self) -> list[Path]:
        """The pickle and instances.json."""
        return [self.refs_file, self.buffer.path]

    def units(self) -> Iterator[Unit]:
        """Each image that some sentence is about."""
        split, splits = self.chosen["split"], set()
        for ref in load_plain_pickle(self.refs_file):
            splits.add(take(ref, "split", str))
            if ref["split"] != "train":
                self.parts.setdefault(take(ref, "image_id", int), ref["split"])
            if split and ref["split"] != split:
                continue
            texts = [clean(one.get("raw") or one.get("sent")) for one in take(ref, "sentences", list)]
            known = self.sentences.setdefault(take(ref, "ann_id", int), [])
            known += [text for text in texts if text and text not in known]
            self.wanted.setdefault(take(ref, "image_id", int), set()).add(ref["ann_id"])
        if not self.wanted:
            raise SourceError(f"{self.refs_file} has no split {split!r}; it has {', '.join(sorted(splits))}")
        listed = set()
        for image_span, spans in super().units():
            if image_span is not None and (number := self.buffer.load(*image_span).get("id")) in self.wanted:
                listed.add(number)
                yield image_span, spans
        self._unlisted = sorted(self.wanted.keys() - listed)

    def remarks(self) -> list[str]:
        """Images that sentences are about, and ``instances.json`` lacks."""
        if not (missing := self._unlisted):
            return []
        name = self.refs_file.name
        lacking = counted(len(missing), "image")
        return [f"refcoco: instances.json lacks {lacking} that {name} is about, such as {missing[0]}"]

    def held_out(self) -> dict[str, str]:
        """Images of val and test."""
        name = f"{self.refs_file.parent.name} {self.refs_file.stem}"
        return {f"coco {number}": f"{name} {part}" for number, part in self.parts.items()}

    def read(self, unit: Unit | tuple[None, list[Span]], notes: Notes) -> Iterator[AnnotatedImage]:
        """One image, but for those of val and test in data for training."""
        number = self.buffer.load(*unit[0]).get("id") if unit[0] else -1
        if self.exclude_leaks and self.chosen["split"] in ("", "train") and number in self.parts:
            detail = f"of {self.parts[number]}; --no-exclude-leaks keeps it"
            notes.drop(Reason.HELD_OUT, f"{self.source.name} image {number}", detail, len(self.wanted[number]))
            return
        yield from super().read(unit, notes)
        for missing in sorted(self.wanted.get(number, set()) - {self._id(span) for span in unit[1]}):
            problem = f"instances.json has no annotation {missing} of this image, which sentences are about"
            notes.drop(Reason.INCOMPLETE, f"{self.source.name} image {number}", problem)

    def _id(self, span: Span) -> Any:
        try:
            return kept(self.buffer.load(*span), "an annotation", dict).get("id")
        except BadItem:  # noted where it is read
            return None

    def region(self, item: Mapping[str, Any], size: Size | None, notes: Notes) -> Annotation | Reason | None:
        """An object that sentences refer to; others are counted."""
        number = item.get("id")
        texts = self.sentences.get(number) if isinstance(number, int) else None
        if texts is None:
            notes.count("objects that no sentence refers to, left out")
            return None
        found = super().region(item, size, notes)
        return replace(found, captions=tuple(texts)) if isinstance(found, Annotation) else found


class Mdetr(Coco):
    """MDETR's finetune_*, final_flickr_* and final_mixed_*.json: COCO's layout with an image for each sentence."""

    name = "mdetr"
    about = (
        "MDETR's finetune_refcoco*.json, final_flickr_*.json, final_mixed_*.json: COCO's layout, a sentence an image"
    )
    closed = False  # objects that the sentence does not name are left out
    settings: ClassVar[Mapping[str, Setting]] = {}

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """COCO's layout with a caption in each image, and its characters in each annotation."""
        annotation = peek.first("annotations")
        if "caption" in peek.first("images") and "tokens_positive" in annotation and "sam_mask" not in annotation:
            return Evidence(0.95, "images with a caption and annotations with tokens_positive")
        return None

    def label(self, category: Mapping[str, Any]) -> str:
        """The category's name; none of the one category of grounding data, ``object``."""
        label = super().label(category)
        return "" if label == NO_NAME else label

    def read(self, unit: Any, notes: Notes) -> Iterator[AnnotatedImage]:
        """An image whose objects have the part of the sentence that is about them, and the sentence."""
        caption = self._caption(unit[0]) if unit[0] else ""
        spans = dict(map(self._tokens, unit[1]))
        for image in super().read(unit, notes):
            objects = [
                replace(one, captions=tuple(clean(caption[start:end]) for start, end in spans.get(one.id, [])))
                for one in image.objects
            ]
            indices: dict[tuple[int, int], list[int]] = {}
            for index, one in enumerate(objects):
                for pair in spans.get(one.id, []):
                    indices.setdefault(pair, []).append(index)
            phrases = tuple((start, end, tuple(indices[start, end])) for start, end in sorted(indices))
            grounded = (Grounded(caption, phrases),) if phrases else ()
            yield replace(image, objects=tuple(objects), grounded=grounded)

    def _caption(self, span: Span) -> str:
        image = kept(self.buffer.load(*span), "an image", dict)
        return str(kept(image.get("caption") or "", f"the caption of image {image.get('id')}", str))

    def _tokens(self, span: Span) -> tuple[str, list[tuple[int, int]]]:
        """An annotation's id and the characters that are about it; what is no annotation is noted elsewhere."""
        item = self.buffer.load(*span)
        if not isinstance(item, dict):
            return "", []
        pairs = kept(item.get("tokens_positive") or [], f"tokens_positive of annotation {item.get('id')}", list)
        found = (numbers(pair, 2, f"a part of tokens_positive of annotation {item.get('id')}") for pair in pairs)
        return str(item.get("id")), [(int(start), int(end)) for start, end in found]


class RefCocoLines(ChatItems):
    """Qwen-VL's and OFA's refcoco_*.jsonl: a sentence and a box a line."""

    name = "refcoco_jsonl"
    about = "RefCOCO as JSON Lines of image, sent and bbox (x0, y0, x1, y1 in pixels), as Qwen-VL's"

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Lines with sent and bbox."""
        return (
            Evidence(0.95, "lines with image, sent and bbox") if {"image", "sent", "bbox"} <= set(peek.item) else None
        )

    def images(self, item: Mapping[str, Any], location: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image with one object."""
        declared = declared_size(item)
        path = take(item, "image", str)
        names = [path, *tails(path)]
        if (found := self.image_folder.look_up(names, declared, location, notes)) is None:
            return
        x0, y0, x1, y1 = numbers(take(item, "bbox", list), 4, "bbox")
        one = boxed((x0, y0, x1, y1), found[1], notes, captions=(clean(take(item, "sent", str)),))
        if isinstance(one, Reason):
            notes.drop(one, location, short(item["bbox"]))
            return
        yield AnnotatedImage(found[0], found[1], "", (one,))


class _Plain(pickle.Unpickler):
    """Makes nothing but what pickle itself has: lists, dicts, numbers, text."""

    def find_class(self, module: str, name: str) -> Any:
        raise SourceError(f"it wants to make {module}.{name}; RefCOCO's hold lists, dicts, numbers and text alone")


def load_plain_pickle(path: Path) -> list[Any]:
    """A pickled list of plain values.

    Raises:
        SourceError: for a pickle that holds more, or is damaged.
    """
    for encoding in ("utf-8", "latin-1"):
        try:
            with open(path, "rb") as stream:
                value = _Plain(stream, encoding=encoding).load()
        except UnicodeDecodeError:
            continue
        except SourceError as error:
            raise SourceError(f"{path} is not read: {error}. Do not load it, fetch it from its source again") from error
        except Exception as error:  # damaged pickles raise nearly anything: IndexError, KeyError, struct.error, ...
            raise SourceError(f"{path} is no pickle, or damaged: {type(error).__name__} {error}") from error
        if isinstance(value, list) and all(isinstance(one, dict) for one in value):
            return value
        break
    raise SourceError(f"{path} holds no list of references")
