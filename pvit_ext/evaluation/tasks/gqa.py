"""GQA: one word or phrase about an image; with scene graphs, the objects of a question are regions.

Test splits have no scene graphs: with regions it is the balanced validation questions that can be asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.base import Setting
from pvit_ext.data.image_files import path_of
from pvit_ext.evaluation.fields import given, text_of
from pvit_ext.evaluation.measures import grouped, mean_score
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.evaluation.task import Published, Task, TaskOptions
from pvit_ext.files import read_text
from pvit_ext.regions.region import Region

_SOURCE = "LLaVA-1.5's paper, testdev balanced without regions"


class Gqa(Task):
    """Share of answers that are the reference, in lower case and without a last dot, as LLaVA's converter has it."""

    about = "GQA: one word about an image ({val,testdev}_balanced_questions.json), with regions by its scene graphs"
    settings: ClassVar[dict[str, Setting]] = {
        "scene_graphs": Setting("", "file whose boxes the objects of a question get; default no regions"),
        "suffix": Setting("Answer the question using a single word or phrase.", "behind each question, as LLaVA does"),
    }
    max_new_tokens = 16

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options)
        if "testdev" in options.data.name and not self.chosen["scene_graphs"]:
            theirs = {"LLaVA-1.5-7B": 0.620, "LLaVA-1.5-13B": 0.633}
            self.published = [Published(system, "accuracy", value, _SOURCE) for system, value in theirs.items()]

    def files(self) -> list[Path]:
        """The questions, and the scene graphs."""
        graphs = self.chosen["scene_graphs"]
        return [self.options.data, *([Path(graphs)] if graphs else [])]

    def load(self) -> Iterator[Sample]:
        """A sample for each question; see :class:`~pvit_ext.evaluation.task.Task`.

        Raises:
            ValueError: naming a question that is none of GQA's.
        """
        questions = _read(self.options.data)
        graphs = _read(Path(self.chosen["scene_graphs"])) if self.chosen["scene_graphs"] else None
        for id, item in questions.items():
            location = f"{self.options.data.name} question {id}"
            try:
                text = text_of(item, "question")
                boxes: list[Region] = []
                if graphs is not None:
                    objects = graphs.get(item["imageId"], {}).get("objects", {})
                    text, boxes = _with_regions(text, item["annotations"]["question"], objects)
                    if not boxes:
                        self.leave_out("a question whose objects have no box")
                        continue
                yield Sample(
                    id=id,
                    images=(path_of(self.options.image_folder, f"{given(item, 'imageId')}.jpg"),),
                    question="\n".join(filter(None, [text, self.chosen["suffix"]])),
                    reference=text_of(item, "answer"),
                    specs=tuple(boxes),
                    location=location,
                    extra={"type": (item.get("types") or {}).get("structural")},
                )
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"{location} is none of GQA's ({error!r})") from error

    def parse(self, sample: Sample, answer: str) -> Judged:
        """Equal to the reference in lower case, without a last dot."""
        said = _plain(answer)
        return Judged(said, float(said == _plain(sample.reference)))

    def score(self, results: Sequence[Result]) -> Score:
        """Accuracy, and that of each type of question."""
        types = grouped(results, lambda one: one.sample.extra["type"])
        notes = ["An answer is right if it is the reference, in lower case and without a last dot."]
        if self.chosen["scene_graphs"]:
            notes.append("With regions: not comparable with numbers without; no published one is known.")
        return Score("accuracy", {"accuracy": mean_score(results)}, {"type": types} if types else {}, notes=notes)

    def stored_answers(self, path: Path) -> Mapping[str, str] | None:
        """GQA's own form, a list of questionId and prediction.

        Raises:
            ValueError: for a question without a prediction.
        """
        try:
            found = json.loads(read_text(path))
        except ValueError:
            return None
        if not isinstance(found, list) or not all(isinstance(one, dict) and "questionId" in one for one in found):
            return None
        if missing := [one for one in found if not isinstance(one.get("prediction"), str)]:
            raise ValueError(f"{path}: question {missing[0]['questionId']} has no prediction that is a text")
        return {str(one["questionId"]): one["prediction"] for one in found}


def _plain(text: str) -> str:
    return text.strip().lower().removesuffix(".")


def _with_regions(
    text: str, spans: Mapping[str, str], objects: Mapping[str, Mapping[str, Any]]
) -> tuple[str, list[Region]]:
    """A question with ``<region>`` behind the words for each object that has a box, and the regions in order.

    Args:
        text: words between blanks.
        spans: "2" or "2:4" (without the last) -> ids of objects, with commas between several.
        objects: of the image's scene graph.
    """
    words = text.split(" ")
    found: list[Region] = []
    ends: dict[int, list[str]] = {}  # two spans may end at one word
    for key, ids in spans.items():
        ends.setdefault(int(key.rpartition(":")[2]) - (":" in key), []).extend(ids.split(","))
    for index in sorted(ends):
        named = [objects[id] for id in dict.fromkeys(ends[index]) if id in objects]
        boxes = [one for one in named if one["w"] > 0 and one["h"] > 0]
        found += [Region.box(one["x"], one["y"], one["x"] + one["w"], one["y"] + one["h"]) for one in boxes]
        word = words[index].rstrip("?.,")
        words[index] = word + " <region>" * len(boxes) + words[index][len(word) :]
    return " ".join(words), found


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no file of GQA: it maps ids to questions, or to scene graphs")
    return found
