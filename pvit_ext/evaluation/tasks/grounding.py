"""Grounding: a phrase, answered by a box; on RefCOCO this is REC, accuracy at an IoU of 0.5."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from pvit_ext.adapters.lion.tasks import REGION
from pvit_ext.data.convert.base import Setting
from pvit_ext.data.image_files import path_of
from pvit_ext.data.json_records import read_json_records
from pvit_ext.evaluation.boxes import SCALES, drawable, find_boxes, iou, to_pixels
from pvit_ext.evaluation.converted import objects_of
from pvit_ext.evaluation.fields import text_of
from pvit_ext.evaluation.measures import mean, mean_score
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.evaluation.task import Task
from pvit_ext.files import atomic_write
from pvit_ext.regions.image import image_size, reading
from pvit_ext.regions.raster import Box
from pvit_ext.regions.region import Region, Size

BOXES = "boxes.jsonl"
_QUESTION = "Where is {phrase}? Answer with its box [x0,y0,x1,y1], in fractions of the image's width and height."


class Grounding(Task):
    """The first box of each answer against the true one."""

    about = "boxes in answers: REC accuracy at 0.5 on a converted file with captions, or on lines of image, sent, bbox"
    settings: ClassVar[dict[str, Setting]] = {
        "question": Setting(_QUESTION, "with {phrase}"),
        "scale": Setting("auto", "what the numbers of an answer count; auto: fractions, above 1 thousandths", SCALES),
        "lion_task": Setting(
            REGION, "whose adapters: region if the model has it; another name, or empty for the usual"
        ),
        "iou": Setting("ge", "an IoU of just 0.5 is right (InternVL, lmms-eval) or wrong (gt: Shikra)", ("ge", "gt")),
    }
    scoring = ("scale", "iou")
    max_new_tokens = 64

    def load(self) -> Iterator[Sample]:
        """A sample for each phrase; see :class:`~pvit_ext.evaluation.task.Task`.

        Raises:
            ValueError: for a file of neither kind, or a question without ``{phrase}``.
        """
        if "{phrase}" not in self.chosen["question"]:
            raise ValueError(f"--set question={self.chosen['question']!r} has no {{phrase}}")
        first = next((one.value for one in read_json_records(self.options.data)), None)
        if first is None:
            return
        yield from self._lines() if isinstance(first, dict) and "sent" in first else self._converted()

    def parse(self, sample: Sample, answer: str) -> Judged:
        """Whether the first box of the answer meets the true one."""
        box = self._box(sample, answer)
        if box is None:
            return Judged(None, 0.0)
        found = iou(box, _target(sample))
        right = found > 0.5 if self.chosen["iou"] == "gt" else found >= 0.5
        return Judged("[" + ", ".join(f"{value:.1f}" for value in box) + "]", float(right))

    def score(self, results: Sequence[Result]) -> Score:
        """Accuracy at 0.5, and the mean IoU."""
        boxes = [self._box(one.sample, one.prediction.answer) for one in results]
        found = [0.0 if box is None else iou(box, _target(one.sample)) for box, one in zip(boxes, results, strict=True)]
        metrics = {
            "accuracy@0.5": mean_score(results),
            "mean IoU": mean(found),
            "answers without a box": mean([float(box is None) for box in boxes]),
        }
        sign = {"ge": "at least", "gt": "above"}[self.chosen["iou"]]
        notes = [
            f"The first box of an answer counts, read as {self.chosen['scale']}; right with an IoU of {sign} 0.5; an "
            "inverted box is wrong; the mean is over phrases."
        ]
        return Score("accuracy@0.5", metrics, notes=notes)

    def draw(self, result: Result) -> list[Region]:
        """The true box, then the answer's."""
        box = self._box(result.sample, result.prediction.answer)
        return drawable([_target(result.sample), box], _size(result.sample))

    def write(self, out: Path, results: Sequence[Result]) -> list[Path]:
        """``boxes.jsonl``: for each phrase the box of the answer (None without one) and the true one, pixels."""
        lines = []
        for one in results:
            box, target = self._box(one.sample, one.prediction.answer), _target(one.sample)
            found = {"id": one.sample.id, "image": one.sample.images[0], "phrase": one.sample.reference, "box": box}
            lines.append(json.dumps(found | {"true_box": target, "iou": 0.0 if box is None else iou(box, target)}))
        with atomic_write(out / BOXES) as temporary:
            temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return [out / BOXES]

    def _box(self, sample: Sample, answer: str) -> Box | None:
        found = find_boxes(answer)
        return to_pixels(found[0], _size(sample), self.chosen["scale"]) if found else None

    def _converted(self) -> Iterator[Sample]:
        for found in objects_of(self.options.data, self.options.image_folder):
            for number, phrase in enumerate(found.captions):
                yield self._sample(f"{found.id}.{number}", found.images[0], phrase, found.bounds(), found.location)
            if not found.captions:
                self.leave_out("an object without a caption")

    def _lines(self) -> Iterator[Sample]:
        for number, found in enumerate(read_json_records(self.options.data)):
            location = f"{self.options.data.name} line {found.line}"
            try:
                line = found.value
                x0, y0, x1, y1 = map(float, line["bbox"])
                image, sent = path_of(self.options.image_folder, text_of(line, "image")), text_of(line, "sent")
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{location}: expected image, sent and bbox [x0, y0, x1, y1] ({error!r})") from error
            yield self._sample(str(number), image, sent, (x0, y0, x1, y1), location)

    def _sample(self, id: str, image: str, phrase: str, box: Box, location: str) -> Sample:
        question = self.chosen["question"].replace("{phrase}", phrase)
        with reading(location):
            size = image_size(image)
        x0, y0, x1, y1 = Region.box(*box).resolve(size, location).bounds(size)  # one that no answer can meet is refused
        extra = {"box": [x0, y0, x1, y1], "size": list(size), "areas": [(x1 - x0) * (y1 - y0)]}
        named = self.chosen["lion_task"] or None
        own, known = (None, named) if named == REGION else (named, None)
        return Sample(
            id, (image,), question, phrase, location=location, extra=extra, adapters=own, adapters_if_known=known
        )


def _target(sample: Sample) -> Box:
    x0, y0, x1, y1 = sample.extra["box"]
    return x0, y0, x1, y1


def _size(sample: Sample) -> Size:
    width, height = sample.extra["size"]
    return width, height
