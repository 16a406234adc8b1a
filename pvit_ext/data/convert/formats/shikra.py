"""Shikra's JSON Lines: boxes in pixels, phrases between ``<ph_st>`` and ``<ph_ed>``.

Read are REC/REG/GC (an expression and its box), Flickr30k (sentences), GPT4GEN (question and answer with a chain of
thought) and PointQA (a question about a point). The k-th phrase of a text takes the k-th list of ``boxes_seq``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Size
from pvit_ext.data.convert.base import Evidence, Setting
from pvit_ext.data.convert.chats import ChatItems, conversation, results, without_boxes
from pvit_ext.data.convert.fields import clean, declared_size, kept, short, take
from pvit_ext.data.convert.marks import Mark, Said, put_before, spoken
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.pictures import tails
from pvit_ext.data.convert.shapes import boxed, numbers, pointed

_PHRASE = re.compile(r"<ph_st>(.*?)<ph_ed>", re.DOTALL)
_KINDS = (
    ("expression", "bbox"),
    ("sentence", "boxes", "boxes_seq"),
    ("question", "boxes", "question_boxes_seq", "answer_boxes_seq"),
    ("question", "answer", "point"),
)


class Shikra(ChatItems):
    """See the module."""

    name = "shikra"
    about = "Shikra's JSON Lines: REC_*, CWB_flickr30k_*, GPT4GEN_*, pointQA_*"
    settings: ClassVar[Mapping[str, Setting]] = {
        "answers": Setting("full", "of GPT4GEN: with the chain of thought, or the result alone", ("full", "short")),
        "region": Setting("point", "of PointQA: the point, or the box around its object", ("point", "box")),
    }

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Lines with the keys of one of its kinds."""
        found = _kind(peek.item)
        return Evidence(0.95, f"lines with {', '.join(found)}") if found else None

    def images(self, item: Mapping[str, Any], location: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """The picture of a line with what is said about it."""
        if (kind := _kind(item)) is None:
            kinds = "; ".join(", ".join(one) for one in _KINDS)
            raise BadItem(f"its keys are none of a kind that is read ({kinds}): {short(sorted(item))}")
        if (found := self.pictures.place(_names(item), declared_size(item), location, notes)) is None:
            return
        name, size = found
        if kind[0] == "expression":
            one = _box(take(item, "bbox", list), size, notes, captions=(clean(take(item, "expression", str)),))
            if isinstance(one, Reason):
                notes.drop(one, location, short(item["bbox"]))
                return
            yield AnnotatedImage(name, size, "", (one,))
        elif kind[0] == "sentence":
            regions = [_box(one, size, notes) for one in take(item, "boxes", list)]
            said = _said(take(item, "sentence", str), take(item, "boxes_seq", list), len(regions))
            objects, grounded = results([(said, spoken(said))], regions, location, notes)
            yield AnnotatedImage(name, size, "", objects, tuple(one.text for one in grounded), grounded=grounded)
        elif kind[-1] == "point":
            yield from self._point(item, name, size, location, notes)
        else:
            yield self._reasoned(item, name, size, location, notes)

    def _reasoned(
        self, item: Mapping[str, Any], name: str, size: Size | None, location: str, notes: Notes
    ) -> AnnotatedImage:
        regions = [_box(one, size, notes) for one in take(item, "boxes", list)]
        asked = _said(take(item, "question", str), take(item, "question_boxes_seq", list), len(regions))
        if self.chosen["answers"] == "full" and "cot_with_ans" in item:
            answer = _said(take(item, "cot_with_ans", str), take(item, "answer_boxes_seq", list), len(regions))
        else:
            answer = Said(_PHRASE.sub(r"\1", take(item, "answer", str)))
        said = without_boxes([asked, answer], regions, location, notes)
        talks = (said.conversation,) if said.conversation else ()
        return AnnotatedImage(name, size, "", said.objects, grounded=said.grounded, conversations=talks)

    def _point(
        self, item: Mapping[str, Any], name: str, size: Size | None, location: str, notes: Notes
    ) -> Iterator[AnnotatedImage]:
        if self.chosen["region"] == "box":
            region = _box(take(item, "bbox", list), size, notes)
        else:
            region = pointed("point", numbers(take(item, "point", list), 2, "point"), size)
        asked = put_before(Said(take(item, "question", str)), [0])
        if talk := conversation([asked, Said(take(item, "answer", str))], [region], location, notes):
            yield AnnotatedImage(name, size, "", conversations=(talk,))


def _kind(item: Mapping[str, Any]) -> tuple[str, ...] | None:
    if not {"img_path", "file_path", "image_id"} & set(item):
        return None
    return next((kind for kind in _KINDS if set(kind) <= set(item)), None)


def _names(item: Mapping[str, Any]) -> list[str]:
    path = item.get("img_path", item.get("file_path"))
    path = f"{item.get('image_id')}.jpg" if path is None else kept(path, "img_path", str)
    return [path, *tails(path)]


def _box(values: Any, size: Size | None, notes: Notes, **fields: Any) -> Annotation | Reason:
    x0, y0, x1, y1 = numbers(values, 4, "a box")
    return boxed((x0, y0, x1, y1), size, notes, **fields)


def _said(text: str, sequence: Sequence[Any], boxes: int) -> Said:
    phrases = list(_PHRASE.finditer(text))
    if len(phrases) != len(sequence):
        raise BadItem(f"{len(phrases)} phrases for {len(sequence)} lists of boxes: {short(text)}")
    marks = []
    for phrase, places in zip(phrases, sequence, strict=True):
        for one in kept(places, "a list of boxes_seq", list):
            if not isinstance(one, int) or not 0 <= one < boxes:
                raise BadItem(f"boxes_seq names box {short(one)} of {boxes}, counted from 0")
        marks.append(Mark(phrase.start(), phrase.end(), tuple(places), phrase[1].strip()))
    return Said(text, tuple(marks))
