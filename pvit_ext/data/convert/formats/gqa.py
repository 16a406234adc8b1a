"""GQA: questions with the words that name an object, whose boxes are in the scene graphs (pixels from 0).

Words are counted from 0, ``2`` or ``2:4``, the end excluded. ``<region>`` stands behind the words of a question that
name an object. Objects that a question or answer names are kept, with name and attributes, as PVIT's conversion has
regions for both. Scene graphs are published for train and val alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.convert.base import DataFormat, Evidence, Setting, SourceError
from pvit_ext.data.convert.fields import kept, take
from pvit_ext.data.convert.formats.gqa_image import SceneImage
from pvit_ext.data.convert.json_buffer import JsonBuffer
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek

_IMAGE = re.compile(rb'"imageId"\s*:\s*"?([^"\s,}]+)')
Span = tuple[int, int]
Unit = tuple[str, "tuple[int, Span] | None", list[tuple[int, str, Span]]]
"""An image's id, its scene graph's file and bytes, and those of its questions with their ids."""


class Gqa(DataFormat):
    """See the module."""

    name = "gqa"
    about = "GQA: a *_questions.json beside its *_sceneGraphs.json, or the folder"
    settings: ClassVar[Mapping[str, Setting]] = {
        "answers": Setting("short", "a word or phrase, or the full sentence", ("short", "full")),
        "objects": Setting("named", "which to keep: those that questions and answers name, or all", ("named", "all")),
        "scenes": Setting("", "the *_sceneGraphs.json, where it does not lie beside the questions"),
    }

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """A folder with questions and scene graphs, or a map of questions with imageId."""
        if peek.is_folder:
            both = peek.has(r"[^/]*questions[^/]*\.json") and peek.has(r"[^/]*sceneGraphs\.json")
            return Evidence(0.95, "files *_questions.json and *_sceneGraphs.json") if both else None
        first = peek.first(next(iter(peek.sections))) if peek.sections else {}
        found = {"imageId", "question", "answer"} <= set(first)
        return Evidence(0.95, "a map of questions with imageId") if found else None

    @cached_property
    def _paths(self) -> tuple[list[Path], list[Path]]:
        """Files of questions, and of scene graphs."""
        folder = self.source if self.source.is_dir() else self.source.parent
        scenes = [Path(self.chosen["scenes"])] if self.chosen["scenes"] else sorted(folder.glob("*sceneGraphs.json"))
        splits = {path.name.split("_")[0] for path in scenes}
        if self.source.is_file():
            questions = [self.source]
        else:  # those of testdev lie in the same folder, and have no scene graphs
            found = sorted(folder.glob("*questions*.json"))
            questions = [path for path in found if self.chosen["scenes"] or path.name.split("_")[0] in splits]
        if not questions or not scenes or not all(path.is_file() for path in scenes):
            missing = "*_questions.json with scene graphs" if scenes else "*_sceneGraphs.json"
            raise SourceError(
                f"{folder} holds no {missing}; regions of GQA come from scene graphs, which train and val have "
                f"(--set scenes=FILE), testdev and test have not"
            )
        return questions, scenes

    @cached_property
    def buffers(self) -> list[JsonBuffer]:
        """The buffers of all files, questions first."""
        return [JsonBuffer(path) for paths in self._paths for path in paths]

    def files(self) -> list[Path]:
        """Questions and scene graphs."""
        return [path for paths in self._paths for path in paths]

    def remarks(self) -> list[str]:
        """Which questions of a folder are not read, since no scene graphs lie beside them."""
        others = [path.name for path in sorted(self.source.glob("*questions*.json")) if path not in self._paths[0]]
        return [f"gqa: {', '.join(others)} not read: there are no scene graphs of them"] if others else []

    def units(self) -> Iterator[Unit]:
        """Each image with its questions, in the order of the first."""
        count = len(self._paths[0])
        images: dict[str, list[tuple[int, str, Span]]] = {}
        scenes: dict[str, tuple[int, Span]] = {}
        for number, buffer in enumerate(self.buffers):
            for key, section in buffer.members():
                if number >= count:
                    scenes[key] = (number, (section.start, section.end))
                    continue
                found = _IMAGE.search(buffer.read(section.start, section.end))
                image = found[1].decode("utf-8", "replace") if found else ""
                images.setdefault(image, []).append((number, key, (section.start, section.end)))
        for image, questions in images.items():
            yield image, scenes.get(image), questions

    def read(self, unit: Unit, notes: Notes) -> Iterator[AnnotatedImage]:
        """One image."""
        image, scene, questions = unit
        location = f"image {image}"
        if scene is None:
            notes.drop(Reason.INCOMPLETE, location, "no scene graph of it", len(questions))
            return
        try:
            graph = kept(self.buffers[scene[0]].load(*scene[1]), "a scene graph", dict)
            declared = take(graph, "width", int), take(graph, "height", int)
            names = [f"{image}.jpg", f"VG_100K/{image}.jpg", f"VG_100K_2/{image}.jpg"]
            if (found := self.image_folder.look_up(names, declared, location, notes, len(questions))) is None:
                return
            builder = SceneImage(graph, location, found[1], notes)
        except BadItem as error:
            raise BadItem(str(error), error.location or f"{self.buffers[scene[0]].path.name} {location}") from error
        for number, key, span in questions:
            buffer = self.buffers[number]
            try:
                item = kept(buffer.load(*span), "a question", dict)
                if str(take(item, "imageId", str)) != image:
                    raise BadItem(f"imageId is {item['imageId']!r}, found as {image!r}")
                builder.ask(item, key, self.chosen["answers"] == "full")
            except BadItem as error:
                notes.bad(error.location or f"{buffer.path.name} question {key}", str(error))
        yield builder.build(found[0], image, self.chosen["objects"] == "all")
