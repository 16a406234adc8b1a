"""One image of Visual Genome, put together from the entries of its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pvit_ext.data.convert.annotation import AnnotatedImage, Annotation, Question, Relation, Size
from pvit_ext.data.convert.fields import clean, kept, take
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.shapes import boxed, numbers, xywh
from pvit_ext.data.convert.spans import insert_regions, phrase_end


class ImageBuilder:
    """Takes the entries of an image, objects before what names them.

    Args:
        location: names the image.
        size: of it.
        notes: takes what is left out.
        complete: whether a file of objects is read, which lists all that may be named.
    """

    def __init__(self, location: str, size: Size | None, notes: Notes, complete: bool) -> None:
        self.location, self.size, self.notes, self.complete = location, size, notes, complete
        self.objects: list[Annotation] = []
        self.indices: dict[int, int | None] = {}
        """Indices of objects by their ids; None for one that cannot be used."""
        self.relations: list[Relation] = []
        self.questions: list[Question] = []
        self.said: set[Any] = set()

    def add(self, part: str, entries: Sequence[Any]) -> None:
        """Take the entries of a part; a bad one is noted."""
        steps: dict[str, Callable[[Mapping[str, Any]], object]] = {
            "regions": self._region,
            "objects": self._named,
            "attributes": self._attributes,
            "relationships": self._relation,
            "questions": self._question,
        }
        for number, entry in enumerate(entries):
            try:
                steps[part](kept(entry, "an entry", dict))
            except BadItem as error:
                self.notes.bad(f"{self.location} {part} {number}", str(error))

    def build(self, image: str, item: str) -> AnnotatedImage:
        """The image."""
        return AnnotatedImage(
            image,
            self.size,
            item,
            tuple(self.objects),
            relations=tuple(self.relations),
            questions=tuple(self.questions),
        )

    def _put(self, entry: Mapping[str, Any], location: str, width: str, height: str, **fields: Any) -> int | None:
        """The index of a new object, None with a note where it has no box."""
        box = xywh(numbers([entry.get(key) for key in ("x", "y", width, height)], 4, f"x, y, {width}, {height}"))
        found = boxed(box, self.size, self.notes, **fields)
        if isinstance(found, Reason):
            self.notes.drop(found, f"{self.location} {location}", f"{list(box)}")
            return None
        self.objects.append(found)
        return len(self.objects) - 1

    def _region(self, entry: Mapping[str, Any]) -> None:
        phrase = clean(take(entry, "phrase", str))
        name = f"region {entry.get('region_id', entry.get('id'))}"
        key = phrase.lower(), repr([entry.get(side) for side in ("x", "y", "width", "height")])
        if key in self.said:
            self.notes.drop(Reason.DUPLICATE, f"{self.location} {name}", phrase)
            return
        self.said.add(key)
        self._put(entry, name, "width", "height", captions=(phrase,) if phrase else (), id=name)

    def _named(self, entry: Mapping[str, Any]) -> int | None:
        number = take(entry, "object_id", int)
        if number in self.indices:
            return self.indices[number]
        names = entry.get("names") or [entry.get("name") or ""]
        label = clean(kept(names, "names", list)[0])
        self.indices[number] = self._put(entry, f"object {number}", "w", "h", label=label, id=str(number))
        return self.indices[number]

    def _attributes(self, entry: Mapping[str, Any]) -> None:
        index = self._named(entry)
        words = kept(entry.get("attributes") or [], "attributes", list)
        if index is not None and words:
            mine = self.objects[index]
            known = dict.fromkeys((*mine.attributes, *(clean(word).lower() for word in words)))
            self.objects[index] = replace(mine, attributes=tuple(word for word in known if word))

    def _relation(self, entry: Mapping[str, Any]) -> None:
        predicate = clean(take(entry, "predicate", str)).lower()
        ends = [self._known(take(entry, key, dict)) for key in ("subject", "object")]
        if ends[0] is None or ends[1] is None or not predicate:
            name = f"{self.location} relationship {entry.get('relationship_id')}"
            detail = (
                "it names an object that objects.json lacks, or that cannot be used" if predicate else "no predicate"
            )
            self.notes.drop(Reason.INCOMPLETE, name, detail)
            return
        self.relations.append(Relation(ends[0], predicate, ends[1]))

    def _known(self, entry: Mapping[str, Any]) -> int | None:
        """The index of an object that a relationship or question names; made if no file of objects is read."""
        number = take(entry, "object_id", int)
        if number not in self.indices and not self.complete and {"x", "y", "w", "h"} <= set(entry):
            return self._named(entry)
        return self.indices.get(number)

    def _question(self, entry: Mapping[str, Any]) -> None:
        question, answer = clean(take(entry, "question", str)), clean(take(entry, "answer", str))
        named = []
        for item in kept(entry.get("q_objects") or entry.get("question_objects") or [], "q_objects", list):
            index = self._known(kept(item, "an object of the question", dict))
            end = _end(question, item)
            if index is not None and end is not None:
                named.append((end, [index]))
            else:
                self.notes.count("objects of questions that are not known, or not named in their words")
        text, indices = insert_regions(question, named)
        self.questions.append(Question(text, answer, tuple(indices), str(entry.get("qa_id", ""))))


def _end(question: str, item: Mapping[str, Any]) -> int | None:
    """Where the words end that name an object of a question: by the file's characters, else by its name."""
    end, name = item.get("entity_idx_end"), clean(item.get("entity_name"))
    if isinstance(end, int) and name and question[:end].lower().endswith(name.lower()):
        return end
    names = [name, *map(clean, kept(item.get("names") or [item.get("name")], "names", list))]
    return next((found for one in names if one and (found := phrase_end(question, one)) is not None), None)
