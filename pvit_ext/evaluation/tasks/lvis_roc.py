"""LVIS-ROC, Ferret's binary choice: is what is marked this or that, by a box, a point or a free shape.

Source: Ferret (arXiv 2310.07704); the reading of answers is that of its script, with all its oddities.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from pvit_ext.data.convert.base import Setting
from pvit_ext.data.image_files import path_of
from pvit_ext.data.json_records import read_json_records
from pvit_ext.evaluation.fields import text_of, texts_of
from pvit_ext.evaluation.measures import mean_score
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.evaluation.task import Published, Task, TaskOptions
from pvit_ext.regions.region import Region

_NEGATED = (re.compile(r" not.*?(?=[,.]|$)", re.DOTALL), re.compile(r" no.*?(?=[,.]|$)", re.DOTALL))
_BOTH = re.compile(r"(.*)_\((.*)\)(.*)")
_SOURCE = "Ferret's paper"
_THEIRS = {
    "box": {"LLaVA": 0.501, "Kosmos-2": 0.603, "Shikra": 0.677, "GPT4RoI": 0.618, "Ferret-7B": 0.794},
    "point": {"Shikra": 0.578, "Ferret-7B": 0.679},
    "mask": {"Ferret-7B": 0.698},
}


class LvisRoc(Task):
    """Share of answers that name the right one of two."""

    about = "LVIS-ROC, Ferret's choice of two names for a box, point or free shape (lvis_eval.jsonl)"
    settings: ClassVar[dict[str, Setting]] = {
        "region": Setting("box", "what is shown; mask: the free shape", ("box", "point", "mask")),
        "question": Setting("Is the object <region> a {first} or a {second}?", "with <region>, {first} and {second}"),
    }

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options)
        if any(self.chosen["question"].count(part) != 1 for part in ("<region>", "{first}", "{second}")):
            raise ValueError(
                f"--set question={self.chosen['question']!r} has to hold <region>, {{first}} and {{second}}"
            )
        theirs = _THEIRS[self.chosen["region"]]
        self.published = [Published(system, "accuracy", value, _SOURCE) for system, value in theirs.items()]

    def load(self) -> Iterator[Sample]:
        """A sample for each line; the true name stands first in lines of even index, from 0.

        Raises:
            ValueError: naming a line that is none of LVIS-ROC.
        """
        for number, found in enumerate(read_json_records(self.options.data)):
            line, location = found.value, f"{self.options.data.name} line {found.line}"
            try:
                region = self._region(line)
                if region is None:
                    self.leave_out("no free shape")
                    continue
                pair = [_plain(text_of(line, "name")), _plain(text_of(line, "neg_class"))]
                names = [line["name"], *texts_of(line, "synonyms")]
                image = path_of(self.options.image_folder, text_of(line, "image_path"))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{location} is none of LVIS-ROC ({error!r}): see lvis_eval.jsonl") from error
            first, second = pair if number % 2 == 0 else pair[::-1]
            question = self.chosen["question"].replace("{first}", first).replace("{second}", second)
            extra = {"names": sorted({text for name in names for text in _texts(name)})}
            yield Sample(str(number), (image,), question, pair[0], (region,), location=location, extra=extra)

    def parse(self, sample: Sample, answer: str) -> Judged:
        """Right if a name is within the answer, case and all, once what follows " not" and " no" is cut out."""
        text = answer
        for pattern in _NEGATED:
            text = pattern.sub("", text)
        said = next((name for name in sample.extra["names"] if name in text), None)
        return Judged(said, float(said is not None))

    def score(self, results: Sequence[Result]) -> Score:
        """Accuracy; chance is a half, and naming both is right."""
        notes = ["An answer is read as Ferret's script does: naming both is right, and words have no boundaries."]
        return Score("accuracy", {"accuracy": mean_score(results)}, notes=notes)

    def _region(self, line: dict[str, Any]) -> Region | None:
        if self.chosen["region"] == "box":
            return Region.box(*line["bbox"])
        if self.chosen["region"] == "point":
            return Region.point(*line["sample_point"])
        mask = line["free_shape_segment_mask"]
        return None if mask is None else Region.mask(np.asarray(mask, bool).T)  # it is indexed [x][y]


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _texts(name: str) -> list[str]:
    """The texts that count as a name: of a_(b) both a and b."""
    if found := _BOTH.fullmatch(name):
        return [text for part in found.groups() if (text := _plain(part).strip())]
    return [_plain(name)]
