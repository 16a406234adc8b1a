"""Shikra's JSON Lines: boxes in pixels, phrases between ``<ph_st>`` and ``<ph_ed>``.

Read are REC/REG/GC (an expression and its box), Flickr30k (sentences), GPT4GEN and GQA with a chain of thought, PointQA
(a question about a point, or three of them) and Visual7W (which of some boxes). Its VCR is read as ``vcr``. The k-th
phrase of a text takes the k-th list of box numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Size
from pvit_ext.data.convert.base import Evidence, Setting
from pvit_ext.data.convert.chats import ChatItems, conversation, results, without_boxes
from pvit_ext.data.convert.fields import clean, declared_size, kept, short, take
from pvit_ext.data.convert.image_folder import tails
from pvit_ext.data.convert.marks import Mark, Said, put_before, spoken
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.shapes import boxed, numbers, pointed

_PHRASE = re.compile(r"<ph_st>(.*?)<ph_ed>", re.DOTALL)
_KINDS = {
    "expression": ("expression", "bbox"),
    "sentence": ("sentence", "boxes", "boxes_seq"),
    "reasoned": ("question", "boxes", "question_boxes_seq", "answer_boxes_seq"),
    "chain": ("imageId", "question", "cot"),
    "choice": ("question", "answer", "candidates"),
    "point": ("question", "answer", "point"),
    "points": ("general_question", "answer", "point"),
}
"""The keys of each kind of line; of one that fits several, the first."""
_IMAGES = ("img_path", "file_path", "image_id", "imageId")
_QUESTIONS = {"general": "general_question", "super": "super_question", "object": "obj_question"}


class Shikra(ChatItems):
    """See the module."""

    name = "shikra"
    about = "Shikra's JSON Lines: REC_*, GC_*, CWB_flickr30k_*, GPT4GEN_*, gqa_*_with_cot, pointQA_*, v7w_pointing_*"
    settings: ClassVar[Mapping[str, Setting]] = {
        "answers": Setting("full", "of chains of thought: with them, or the result alone", ("full", "short")),
        "region": Setting("point", "of PointQA: the point, or the box around its object", ("point", "box")),
        "question": Setting("general", "of pointQA_twice: how it names the object", tuple(_QUESTIONS)),
    }

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Lines with the keys of one of its kinds."""
        found = _kind(peek.item)
        return Evidence(0.95, f"lines with {', '.join(_KINDS[found])}") if found else None

    def images(self, item: Mapping[str, Any], location: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """The image of a line with what is said about it."""
        if (kind := _kind(item)) is None:
            kinds = "; ".join(", ".join(keys) for keys in _KINDS.values())
            raise BadItem(f"its keys are none of a kind that is read ({kinds}): {short(sorted(item))}")
        if (found := self.image_folder.look_up(_names(item), declared_size(item), location, notes)) is None:
            return
        name, size = found
        if kind == "expression":
            one = _box(take(item, "bbox", list), size, notes, captions=(clean(take(item, "expression", str)),))
            if isinstance(one, Reason):
                notes.drop(one, location, short(item["bbox"]))
                return
            yield AnnotatedImage(name, size, "", (one,))
        elif kind == "sentence":
            regions = [_box(one, size, notes) for one in take(item, "boxes", list)]
            said = _said(take(item, "sentence", str), take(item, "boxes_seq", list), len(regions))
            objects, grounded = results([(said, spoken(said))], regions, location, notes)
            yield AnnotatedImage(name, size, "", objects, tuple(one.text for one in grounded), grounded=grounded)
        elif kind in ("reasoned", "chain"):
            boxes, turns = self._reasoned(item) if kind == "reasoned" else self._chain(item)
            regions = [_box(one, size, notes) for one in boxes]
            answered = without_boxes(turns, regions, location, notes)
            talks = (answered.conversation,) if answered.conversation else ()
            yield AnnotatedImage(name, size, "", answered.objects, grounded=answered.grounded, conversations=talks)
        else:
            turns, regions = _choice(item, size, notes) if kind == "choice" else self._point(item, kind, size, notes)
            if talk := conversation(turns, regions, location, notes):
                yield AnnotatedImage(name, size, "", conversations=(talk,))

    def _reasoned(self, item: Mapping[str, Any]) -> tuple[list[Any], list[Said]]:
        boxes = take(item, "boxes", list)
        asked = _said(take(item, "question", str), take(item, "question_boxes_seq", list), len(boxes))
        if self.chosen["answers"] == "short" or "cot_with_ans" not in item:
            return boxes, [asked, Said(_PHRASE.sub(r"\1", take(item, "answer", str)))]
        return boxes, [asked, _said(take(item, "cot_with_ans", str), take(item, "answer_boxes_seq", list), len(boxes))]

    def _chain(self, item: Mapping[str, Any]) -> tuple[list[Any], list[Said]]:
        cot, asked = take(item, "cot", dict), Said(take(item, "question", str))
        boxes = take(cot, "boxes", list)
        if self.chosen["answers"] == "short":
            return boxes, [asked, Said(take(item, "answer", str))]
        return boxes, [asked, _said(take(cot, "value", str), take(cot, "seq", list), len(boxes))]

    def _point(
        self, item: Mapping[str, Any], kind: str, size: Size | None, notes: Notes
    ) -> tuple[list[Said], list[Annotation | Reason]]:
        """A question about a point, or about the box around its object."""
        if self.chosen["region"] == "box":
            region = _box(take(item, "bbox", list), size, notes)
        else:
            region = pointed("point", numbers(take(item, "point", list), 2, "point"), size)
        question = "question" if kind == "point" else _QUESTIONS[self.chosen["question"]]
        return [put_before(Said(take(item, question, str)), [0]), Said(take(item, "answer", str))], [region]


def _choice(item: Mapping[str, Any], size: Size | None, notes: Notes) -> tuple[list[Said], list[Annotation | Reason]]:
    """A question which of some boxes is meant; the answer is one of them."""
    boxes, right = take(item, "candidates", list), take(item, "answer", list)
    if right not in boxes:
        raise BadItem(f"answer {short(right)} is none of candidates {short(boxes)}")
    text = f"{clean(take(item, 'question', str))} Candidates: "
    marks = [Mark(len(text) + 4 * key, len(text) + 4 * key + 2, (key,)) for key in range(len(boxes))]
    asked = Said(text + ", ".join("<>" for _ in boxes), tuple(marks))
    return [asked, Said("<>", (Mark(0, 2, (boxes.index(right),)),))], [_box(one, size, notes) for one in boxes]


def _kind(item: Mapping[str, Any]) -> str | None:
    if not any(key in item for key in _IMAGES):
        return None
    return next((kind for kind, keys in _KINDS.items() if set(keys) <= set(item)), None)


def _names(item: Mapping[str, Any]) -> list[str]:
    path = item.get("img_path", item.get("file_path"))
    path = f"{item.get('image_id', item.get('imageId'))}.jpg" if path is None else kept(path, "img_path", str)
    return [path, *tails(path)]


def _box(values: Any, size: Size | None, notes: Notes, **fields: Any) -> Annotation | Reason:
    x0, y0, x1, y1 = numbers(values, 4, "a box")
    return boxed((x0, y0, x1, y1), size, notes, **fields)


def _said(text: str, sequence: Sequence[Any], boxes: int) -> Said:
    phrases = list(_PHRASE.finditer(text))
    if len(phrases) != len(sequence):
        raise BadItem(f"{len(phrases)} phrases for {len(sequence)} lists of boxes: {short(text)}")
    marks = []
    for phrase, indices in zip(phrases, sequence, strict=True):
        for one in kept(indices, "a list of boxes_seq", list):
            if not isinstance(one, int) or not 0 <= one < boxes:
                raise BadItem(f"boxes_seq names box {short(one)} of {boxes}, counted from 0")
        marks.append(Mark(phrase.start(), phrase.end(), tuple(indices), phrase[1].strip()))
    return Said(text, tuple(marks))
