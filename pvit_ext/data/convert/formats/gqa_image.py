"""One image of GQA: its scene graph, and the questions about it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Question, Relation, Size
from pvit_ext.data.convert.fields import clean, kept, short, take
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.shapes import boxed, numbers, xywh
from pvit_ext.data.convert.spans import insert_regions

_WORD = re.compile(r"\S+")
_POSITION = re.compile(r"(\d+)(?::(\d+))?")
_EDGES = ("x", "y", "w", "h")
MISSING = "objects that questions name and the scene graph lacks"


class SceneImage:
    """Takes the questions of an image.

    Args:
        graph: its scene graph.
        location: names the image.
        size: of it.
        notes: takes what is left out.

    Raises:
        BadItem: for a scene graph that breaks the format's rules.
    """

    def __init__(self, graph: Mapping[str, Any], location: str, size: Size | None, notes: Notes) -> None:
        self.graph, self.location, self.size, self.notes = take(graph, "objects", dict), location, size, notes
        self.indices: dict[str, int] = {}
        self.objects: list[Annotation] = []
        self.questions: list[Question] = []
        self.named: set[int] = set()
        self.unusable: dict[str, Reason] = {}
        for key, entry in self.graph.items():
            found = _object(kept(entry, f"object {key}", dict), key, size, notes)
            if isinstance(found, Reason):
                self.unusable[key] = found
                continue
            self.indices[key] = len(self.objects)
            self.objects.append(found)

    def ask(self, item: Mapping[str, Any], key: str, full: bool) -> None:
        """Take a question.

        Args:
            item: of the source.
            key: its id.
            full: answer by the full sentence.

        Raises:
            BadItem: for a question that breaks the format's rules.
        """
        question = take(item, "question", str)
        answer = clean(take(item, "fullAnswer" if full else "answer", str))
        annotations = kept(item.get("annotations") or {}, "annotations", dict)
        named = []
        for position, ids in self._named(annotations, "question"):
            named.append((_end(question, position), ids))
        for part in ("answer", "fullAnswer"):
            for _, ids in self._named(annotations, part):
                self.named.update(ids)
        text, indices = insert_regions(question, named)
        self.named.update(indices)
        self.questions.append(Question(clean(text), answer, tuple(indices), key))

    def build(self, image: str, item: str, everything: bool) -> AnnotatedImage:
        """The image.

        Args:
            image: path in the image folder.
            item: its id.
            everything: keep objects that no question names.
        """
        for key, reason in self.unusable.items():
            self.notes.drop(reason, f"{self.location} object {key}", short(self.graph[key]))
        stay = [index for index in range(len(self.objects)) if everything or index in self.named]
        if len(stay) < len(self.objects):
            self.notes.count("objects that no question or answer names, left out", len(self.objects) - len(stay))
        moved = {index: number for number, index in enumerate(stay)}
        questions = [replace(one, regions=tuple(moved[index] for index in one.regions)) for one in self.questions]
        return AnnotatedImage(
            image,
            self.size,
            item,
            tuple(self.objects[index] for index in stay),
            relations=tuple(self._relations(moved)),
            questions=tuple(questions),
        )

    def _named(self, annotations: Mapping[str, Any], part: str) -> Iterator[tuple[str, list[int]]]:
        """Positions of words, and the objects that they name."""
        for position, ids in kept(annotations.get(part) or {}, f"annotations.{part}", dict).items():
            found = []
            for one in kept(ids, f"annotations.{part}[{position!r}]", str).split(","):
                if (key := one.strip()) in self.indices:
                    found.append(self.indices[key])
                elif key not in ("", "-"):
                    self.notes.count(MISSING)
            yield position, found

    def _relations(self, moved: Mapping[int, int]) -> Iterator[Relation]:
        for key, index in self.indices.items():
            for one in kept(self.graph[key].get("relations") or [], f"relations of {key}", list):
                other = self.indices.get(str(kept(one, "a relation", dict).get("object")))
                if index in moved and other is not None and other in moved:
                    yield Relation(moved[index], clean(one.get("name")), moved[other])


def _object(entry: Mapping[str, Any], key: str, size: Size | None, notes: Notes) -> Annotation | Reason:
    x0, y0, x1, y1 = xywh(numbers([entry.get(edge) for edge in _EDGES], 4, "x, y, w, h"))
    words = kept(entry.get("attributes") or [], "attributes", list)
    attributes = tuple(text for word in words if (text := clean(word)))
    return boxed((x0, y0, x1, y1), size, notes, label=clean(take(entry, "name", str)), attributes=attributes, id=key)


def _end(question: str, position: str) -> int:
    """Where the words end that a position names, without the punctuation behind them."""
    words = list(_WORD.finditer(question))
    found = _POSITION.fullmatch(position)
    last = int(found[2]) - 1 if found and found[2] else int(found[1]) if found else -1
    if not 0 <= last < len(words):
        raise BadItem(f"annotations.question names words {position!r} of {len(words)}, counted from 0")
    return words[last].start() + len(words[last][0].rstrip(".,?!;:"))
