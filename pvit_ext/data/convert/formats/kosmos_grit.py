"""Kosmos-2's GRIT: captions of web images with phrases and boxes, fractions of each side, as Parquet.

``noun_chunks`` and ``ref_exps`` are lists of ``[start, end, x0, y0, x1, y1, score]``; start and end are characters of
the caption, written as floats. The files hold addresses, not images: those are looked for under ``key`` (as
img2dataset names them), the id, or the last part of the address.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Grounded, Size
from pvit_ext.data.convert.base import Evidence, ReadOptions, Setting, SourceError
from pvit_ext.data.convert.fields import clean, short, take
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.parquet_rows import ParquetRows, columns_of
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shapes import boxed_in, numbers

_SUFFIXES = ("jpg", "png", "webp")


class KosmosGrit(ParquetRows):
    """See the module."""

    name = "kosmos_grit"
    about = "Kosmos-2's GRIT: Parquet with caption, noun_chunks and ref_exps; images fetched beforehand"
    settings: ClassVar[Mapping[str, Setting]] = {
        "phrases": Setting("noun_chunks", "which", ("noun_chunks", "ref_exps", "both")),
        "min_score": Setting("0", "of a box"),
    }
    columns = ("id", "key", "url", "caption", "noun_chunks", "ref_exps")

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        try:
            self.min_score = float(self.chosen["min_score"])
        except ValueError:
            self.min_score = math.nan
        if not math.isfinite(self.min_score):  # nothing is less than NaN
            raise SourceError(f"{self.name}: min_score is a number, got {self.chosen['min_score']!r}")

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Its columns."""
        found = {"noun_chunks", "ref_exps", "caption"} <= columns_of(peek)
        return Evidence(0.97, "the columns noun_chunks and ref_exps") if found else None

    def images(self, row: Mapping[str, Any], location: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image of a row with its phrases."""
        names = _names(row, self.image_folder.opened)
        if (found := self.image_folder.look_up(names, None, location, notes)) is None:
            return
        caption = take(row, "caption", str)
        chosen = self.chosen["phrases"]
        lists = [row.get(key) or [] for key in ("noun_chunks", "ref_exps") if chosen in (key, "both")]
        objects: dict[tuple[float, ...], Annotation] = {}
        spans: dict[tuple[int, int], list[tuple[float, ...]]] = {}
        for chunk in (one for chunks in lists for one in chunks):
            self._add(chunk, caption, found[1], objects, spans, location, notes)
        indices = {box: number for number, box in enumerate(objects)}
        for (start, end), boxes in spans.items():
            if len(boxes) == 1:  # a phrase of several is about none of them alone
                one = objects[boxes[0]]
                words = clean(caption[start:end])
                objects[boxes[0]] = replace(one, captions=tuple(dict.fromkeys((*one.captions, words))))
        phrases = tuple((start, end, tuple(indices[box] for box in spans[start, end])) for start, end in sorted(spans))
        grounded = (Grounded(caption, phrases),) if phrases else ()
        item = location.replace(" row ", "/")
        yield AnnotatedImage(found[0], found[1], item, tuple(objects.values()), (clean(caption),), grounded=grounded)

    def _add(
        self,
        chunk: Any,
        caption: str,
        size: Size | None,
        objects: dict[tuple[float, ...], Annotation],
        spans: dict[tuple[int, int], list[tuple[float, ...]]],
        location: str,
        notes: Notes,
    ) -> None:
        """Take a phrase and its box."""
        start, end, *box, score = numbers(chunk, 7, "a phrase")
        if not (start == int(start) and end == int(end) and 0 <= start < end <= len(caption)):
            raise BadItem(f"a phrase is characters of the {len(caption)} of its caption, got {short(chunk)}")
        if score < self.min_score:
            notes.count("phrases of a lower score left out")
            return
        if tuple(box) not in objects:
            found = boxed_in(1, box, size, notes)
            if isinstance(found, Reason):
                notes.drop(found, location, short(chunk))
                return
            objects[tuple(box)] = found
        boxes = spans.setdefault((int(start), int(end)), [])
        if tuple(box) not in boxes:
            boxes.append(tuple(box))


def _names(row: Mapping[str, Any], opened: bool) -> list[str]:
    """Where the image may lie; the last part of an address is the end of it, which other addresses may have too.

    Args:
        row: of the source.
        opened: whether images are looked for; else the first name is taken, and no image lies under an address.
    """
    path = str(row.get("url") or "").split("?")[0]
    last = path.rsplit("/", 1)[-1]
    stems = [str(row[key]) for key in ("key", "id") if row.get(key) is not None]
    addresses = [path, last] if opened else [last]
    return [*(f"{stem}.{suffix}" for stem in stems for suffix in _SUFFIXES), *(addresses if last else [])]
