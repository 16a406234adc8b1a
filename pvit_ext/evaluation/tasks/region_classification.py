"""Classification of true boxes: what is in this box, for every object of COCO's val2017 or a file in its layout.

Nobody has published how an answer becomes a category: the rule is a setting, and is named in the result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pvit_ext.data.convert.base import Setting
from pvit_ext.data.region_fields import parse_region
from pvit_ext.evaluation import embedding
from pvit_ext.evaluation.answers import check_words, equal_class, normalise, only_name_within
from pvit_ext.evaluation.coco_file import CocoFile, image_path
from pvit_ext.evaluation.detection import check_installed, mean_average_precision
from pvit_ext.evaluation.measures import balanced, confusion, mean_score, per_class
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.evaluation.task import Published, Task, TaskOptions
from pvit_ext.files import read_text

_TABLE = "PVIT's table of COCO region classification"
_RULES = {
    "whole": "the whole answer is the name of its category, after normalisation",
    "words": "just one name of a category occurs in it as whole words, and it is the right one",
    "nearest": f"of all names that of its category is nearest to it, by the cosine of {embedding.MODEL}",
}


class RegionClassification(Task):
    """Accuracy, and mean average precision of the true boxes as detections."""

    about = "the category of true boxes: accuracy and mAP (COCO's instances_val2017.json, or a file in its layout)"
    settings: ClassVar[dict[str, Setting]] = {
        "match": Setting("whole", "which answer names a category", tuple(_RULES)),
        "region": Setting("box", "what is shown", ("box", "mask")),
        "question": Setting("What is <region>? Answer with its name alone.", "with <region>"),
        "map": Setting("no", "also mAP, by faster-coco-eval; it takes a confidence for each answer", ("no", "yes")),
    }
    scoring = ("match", "map")
    published = (
        Published("PVIT", "accuracy", 0.6453, _TABLE),
        Published("GPT4RoI", "accuracy", 0.6401, _TABLE),
        Published("Shikra", "accuracy", 0.5391, _TABLE),
        Published("LLaVA", "accuracy", 0.4004, _TABLE),
        Published("RegionGPT", "accuracy", 0.8061, "RegionGPT's paper"),
        Published("RegionGPT", "mAP", 0.700, "RegionGPT's paper"),
        Published("CLIP", "mAP", 0.589, "RegionGPT's paper"),
    )

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options)
        if self.chosen["map"] == "yes":
            check_installed()
        if self.chosen["match"] == "nearest":
            embedding.check()
        if self.chosen["question"].count("<region>") != 1:
            raise ValueError(f"--set question={self.chosen['question']!r} has to hold <region>, once")
        self.file = CocoFile.read(options.data)
        self.categories = self.file.categories()
        self.names = {number: normalise(name) for number, name in self.categories.items()}
        self.classes = sorted(set(self.names.values()))
        if self.chosen["match"] == "words":
            check_words(self.classes)
        self.confidences: dict[str, float] = {}
        self._found: dict[str, tuple[str, float]] = {}

    def load(self) -> Iterator[Sample]:
        """A sample for each object that is no crowd; see :class:`~pvit_ext.evaluation.task.Task`.

        Raises:
            ValueError: naming an annotation that lacks something.
        """
        kind = self.chosen["region"]
        for item, image in self.file.objects(self.leave_out):
            location = f"{self.options.data.name} annotation {item['id']}"
            x, y, width, height = item["bbox"]
            box = [x, y, x + width, y + height]
            if (category := item.get("category_id")) not in self.categories:
                raise ValueError(f"{location}: the file has no category with the id {category!r}")
            yield Sample(
                id=str(item["id"]),
                images=(image_path(image, self.options.image_folder),),
                question=self.chosen["question"],
                reference=self.categories[category],
                specs=(parse_region(box if kind == "box" else _outline(item, location), location, None),),
                location=location,
                extra={"class": self.names[category], "item": item},
            )

    def check_asking(self) -> None:
        """See :class:`~pvit_ext.evaluation.task.Task`."""
        if self.chosen["map"] == "yes" and self.chosen["match"] != "nearest":
            raise ValueError(
                f"--set map=yes takes a confidence for each answer, and with match={self.chosen['match']} a model's "
                "answers have none: --set match=nearest gives a cosine"
            )

    def parse(self, sample: Sample, answer: str) -> Judged:
        """The category that an answer names, by the setting ``match``."""
        if self.chosen["match"] == "nearest":
            said: str | None = self._nearest(sample, answer)
        elif self.chosen["match"] == "whole":
            said = equal_class(answer, self.classes)
        else:
            said = only_name_within(answer, self.classes)
        return Judged(said, float(said == sample.extra["class"]))

    def score(self, results: Sequence[Result]) -> Score:
        """Accuracy over boxes, its mean over categories, and mAP where it was asked for."""
        categories = per_class(results, self.classes)
        metrics = {"accuracy": mean_score(results), "balanced accuracy": balanced(categories)}
        notes = [f"An answer is right if {_RULES[self.chosen['match']]}. The question is ours."]
        if self.chosen["map"] == "yes":
            if missing := sum(one.sample.id not in self.confidences for one in results):
                raise ValueError(
                    f"mAP takes a confidence for each answer, and {missing} of {len(results)} have none: --set "
                    "match=nearest gives a cosine, and --answers takes detections in COCO's form with their score"
                )
            numbers = {name: number for number, name in self.names.items()}
            said = [(one.sample.extra["item"], one.judged.said, self.confidences[one.sample.id]) for one in results]
            metrics["mAP"] = mean_average_precision(
                [result.sample.extra["item"] for result in results],
                [(item, numbers[name], score) for item, name, score in said if name is not None],
                sorted(self.names),
            )
            notes.append("mAP: true boxes as detections of the category that was named, by COCO's own measure.")
        return Score("accuracy", metrics, {"class": categories}, confusion(results, self.classes), notes)

    def stored_answers(self, path: Path) -> Mapping[str, str] | None:
        """Detections in COCO's form, one for each true box: the name of their category, and their score.

        Raises:
            ValueError: for a detection whose box is no object's.
        """
        try:
            found = json.loads(read_text(path))
        except ValueError:
            return None
        if not isinstance(found, list) or not all(isinstance(one, dict) and "category_id" in one for one in found):
            return None
        free: dict[tuple[float, ...], list[str]] = {}
        for item, _ in self.file.objects():
            free.setdefault((item["image_id"], *item["bbox"]), []).append(str(item["id"]))
        answers = {}
        for number, one in enumerate(found):
            try:
                ids, name = free.get((one["image_id"], *one["bbox"])), self.categories[one["category_id"]]
                score = float(one["score"])
            except (KeyError, TypeError, ValueError) as error:
                wanted = "image_id, bbox, a category_id of the data and a score"
                raise ValueError(f"{path}: detection {number} has not got {wanted} ({error!r})") from error
            if not ids:
                raise ValueError(f"{path}: the box of detection {number} is no object's in {self.options.data}")
            answers[ids[0]], self.confidences[ids[0]] = name, score
            ids.pop(0)
        return answers

    def _nearest(self, sample: Sample, answer: str) -> str:
        text = normalise(answer)
        if text not in self._found:
            cosines = self._vectors @ embedding.embed([text])[0]  # (classes,)
            best = int(cosines.argmax())
            self._found[text] = self.classes[best], float(cosines[best])
        said, cosine = self._found[text]
        self.confidences.setdefault(sample.id, cosine)  # a detection keeps its own score
        return said

    @cached_property
    def _vectors(self) -> NDArray[np.float32]:
        """Of the names, (classes, 384)."""
        return embedding.embed(self.classes)


def _outline(item: Mapping[str, Any], location: str) -> dict[str, Any]:
    if (shape := item.get("segmentation")) is None:
        raise ValueError(f"{location} has no segmentation: leave --set region=mask out")
    return {"polygon": shape} if isinstance(shape, list) else {"mask": shape}
