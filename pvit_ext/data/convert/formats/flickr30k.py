"""Flickr30k Entities: boxes of phrases of five sentences an image, counted from 1 and inclusive.

A phrase names a chain of mentions; a chain has one box, several or none, and a box may belong to several chains. An
object's captions are the phrases of chains that have this box alone. Sentences are kept with their phrases' objects.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Grounded, Size
from pvit_ext.data.convert.base import DataFormat, Evidence, Setting, SourceError
from pvit_ext.data.convert.fields import clean, short
from pvit_ext.data.convert.file_items import not_there
from pvit_ext.data.convert.formats.voc import edges
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shapes import boxed
from pvit_ext.files import read_text

_PHRASE = re.compile(r"\[/EN#(\d+)/(\S+) ([^\]]*)\]")
Sentence = tuple[str, list[tuple[int, int, str]]]
"""Plain text, and start, end and chain of each phrase."""


class Flickr30k(DataFormat):
    """See the module."""

    name = "flickr30k"
    about = "Flickr30k Entities: the folder with Annotations/ and Sentences/"
    settings: ClassVar[Mapping[str, Setting]] = {"split": Setting("", "train, val or test; default all")}

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Folders Annotations and Sentences."""
        if peek.has(r"Annotations/[^/]+\.xml") and peek.has(r"Sentences/[^/]+\.txt"):
            return Evidence(0.95, "folders Annotations and Sentences")
        return None

    @cached_property
    def _annotated(self) -> list[str]:
        return sorted(path.stem for path in (self.source / "Annotations").glob("*.xml"))

    @cached_property
    def _wanted(self) -> dict[str, None]:
        """The names that the split's list has, in its order."""
        path = self.source / f"{self.chosen['split']}.txt"
        if not path.is_file():
            raise SourceError(f"{path} is not there; splits are train, val and test")
        return dict.fromkeys(read_text(path).split())

    @cached_property
    def _names(self) -> list[str]:
        found, split = self._annotated, self.chosen["split"]
        if split:
            found = [name for name in found if name in self._wanted]
        if not found:
            raise SourceError(f"{self.source} holds no Annotations/*.xml{' of the split' if split else ''}")
        return found

    @cached_property
    def unrelated(self) -> set[tuple[str, int]]:
        """Sentences that are about another image, counted from 1."""
        path = self.source / "UNRELATED_CAPTIONS"
        lines = read_text(path).split("\n") if path.is_file() else []
        pairs = [line.split() for line in lines if not line.startswith("#")]
        return {(words[0], int(words[1])) for words in pairs if len(words) == 2 and words[1].isdigit()}

    def remarks(self) -> list[str]:
        """Which images of the split have no file."""
        there = set(self._annotated)
        absent = [name for name in self._wanted if name not in there] if self.chosen["split"] else []
        return not_there("flickr30k", absent, "XML file")

    def files(self) -> list[Path]:
        """All XML files and sentences, the list of the split, and that of unrelated captions."""
        lists = [self.source / f"{self.chosen['split']}.txt", self.source / "UNRELATED_CAPTIONS"]
        paths = [path for name in self._names for path in self._paths(name)]
        return [path for path in (*paths, *lists) if path.is_file()]

    def _paths(self, name: str) -> tuple[Path, Path]:
        return self.source / "Annotations" / f"{name}.xml", self.source / "Sentences" / f"{name}.txt"

    def total(self) -> int:
        """The number of images."""
        return len(self._names)

    def units(self) -> Iterator[str]:
        """The name of each image."""
        yield from self._names

    def read(self, unit: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """One image."""
        xml, text = self._paths(unit)
        try:
            root = ET.parse(xml).getroot()
            lines = read_text(text).split("\n") if text.is_file() else []
        except (ET.ParseError, ValueError) as error:
            raise BadItem(f"damaged: {error}", f"{xml.name} or {text.name}") from error
        if not any(map(str.strip, lines)):
            notes.drop(Reason.INCOMPLETE, xml.name, f"no sentence in {text}" if text.is_file() else f"no {text}")
        found = self.image_folder.look_up(
            [f"{unit}.jpg"], _declared(root), xml.name, notes, len(root.findall("object"))
        )
        if found is None:
            return
        sentences = []
        for number, line in enumerate(lines, 1):
            try:
                sentences += [parse_sentence(line)] if line.strip() else []
            except BadItem as error:
                raise BadItem(str(error), f"{text.name} line {number}") from error
        for number in range(len(sentences), 0, -1):
            if (unit, number) in self.unrelated:
                notes.drop(Reason.INCOMPLETE, f"{text.name} line {number}", "listed as about another image")
                del sentences[number - 1]
        objects, chains = _objects(root, found[1], xml.name, notes)
        grounded = [_grounded(sentence, chains) for sentence in sentences]
        yield AnnotatedImage(
            found[0],
            found[1],
            unit,
            tuple(_captioned(index, one, chains, sentences) for index, one in enumerate(objects)),
            tuple(one.text for one in grounded),
            grounded=tuple(grounded),
        )


def parse_sentence(line: str) -> Sentence:
    """A sentence without its markup, and where its phrases stand.

    Raises:
        BadItem: for markup that breaks off.
    """
    parts, phrases, length, position = [], [], 0, 0
    for found in _PHRASE.finditer(line):
        before, words = line[position : found.start()], found[3]
        length += len(before)
        phrases.append((length, length + len(words), found[1]))
        parts += [before, words]
        length += len(words)
        position = found.end()
    text = "".join([*parts, line[position:]]).rstrip()
    if "[/EN#" in text:
        raise BadItem(f"a phrase is [/EN#ID/TYPE words], got {short(text[text.index('[/EN#') :])}")
    return text, phrases


def _objects(
    root: ET.Element, size: Size | None, name: str, notes: Notes
) -> tuple[list[Annotation], dict[str, list[int]]]:
    """Objects, and the indices of each chain's."""
    objects: list[Annotation] = []
    chains: dict[str, list[int]] = {}
    for item in root.findall("object"):
        ids = [clean(one.text) for one in item.findall("name")]
        location = f"{name} chain {', '.join(ids)}"
        if item.find("bndbox") is None:
            notes.count("chains without a box")
            continue
        try:
            x0, y0, x1, y1 = edges(item)
            found = boxed((x0 - 1, y0 - 1, x1, y1), size, notes, id=" ".join(ids))
        except BadItem as error:
            notes.bad(location, str(error))
            continue
        if isinstance(found, Reason):
            notes.drop(found, location, f"{[x0, y0, x1, y1]}")
            continue
        for one in ids:
            chains.setdefault(one, []).append(len(objects))
        objects.append(found)
    return objects, chains


def _grounded(sentence: Sentence, chains: Mapping[str, list[int]]) -> Grounded:
    text, phrases = sentence
    return Grounded(text, tuple((start, end, tuple(chains[one])) for start, end, one in phrases if one in chains))


def _captioned(index: int, item: Annotation, chains: Mapping[str, list[int]], sentences: list[Sentence]) -> Annotation:
    """An object with the phrases that are about it alone, each once."""
    texts: dict[str, str] = {}
    for text, phrases in sentences:
        for start, end, chain in phrases:
            if chains.get(chain) == [index]:
                texts.setdefault(text[start:end].lower(), text[start:end])
    return Annotation(item.region, item.box, captions=tuple(texts.values()), id=item.id)


def _declared(root: ET.Element) -> Size | None:
    texts = [clean(root.findtext(f"size/{side}")) for side in ("width", "height")]
    return (int(texts[0]), int(texts[1])) if all(text.isdigit() and int(text) for text in texts) else None
