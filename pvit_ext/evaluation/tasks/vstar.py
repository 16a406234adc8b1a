"""V*Bench: small things in large images, as questions of several choices.

Source: arXiv 2312.14135. Its own score takes the likeliest option; here, as in lmms-eval, a letter is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.base import Setting
from pvit_ext.data.image_files import find_file
from pvit_ext.evaluation.answers import chosen_letter
from pvit_ext.evaluation.measures import grouped, mean_score
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.evaluation.task import Task
from pvit_ext.files import read_text
from pvit_ext.regions.region import Region

KINDS = ("direct_attributes", "relative_position")
_LETTERS = "ABCDEFGH"
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


class Vstar(Task):
    """Share of right letters."""

    about = "V*Bench: choices about small things in large images (its folder)"
    settings: ClassVar[dict[str, Setting]] = {
        "region": Setting("no", "also show what is asked about, which makes it another task", ("no", "yes")),
        "suffix": Setting("Answer with the option's letter from the given choices directly.", "behind the choices"),
    }
    max_new_tokens = 16

    def files(self) -> list[Path]:
        """The questions."""
        return sorted(path for kind in KINDS for path in (self.options.data / kind).glob("*.json"))

    def load(self) -> Iterator[Sample]:
        """A sample for each question, with its options in an order of its own: in the files the first is right.

        Raises:
            ValueError: naming a file that is none of V*'s.
        """
        if not self.files():
            raise ValueError(f"{self.options.data} has no questions in {' or '.join(KINDS)}: give V*Bench's folder")
        for path in self.files():
            name = f"{path.parent.name}/{path.stem}"
            try:
                item = json.loads(read_text(path))
                yield self._sample(name, item)
            except (LookupError, TypeError, ValueError) as error:
                raise ValueError(f"{path} is none of V*Bench ({error})") from error

    def parse(self, sample: Sample, answer: str) -> Judged:
        """The option that the answer is, or the one letter that stands in it."""
        said = chosen_letter(answer, sample.extra["options"])
        return Judged(said, float(said == sample.reference))

    def score(self, results: Sequence[Result]) -> Score:
        """Accuracy, and that of each kind of question."""
        kinds = grouped(results, lambda one: str(one.sample.extra["kind"]))
        notes = [
            "By the letter of an option, as lmms-eval has it; the benchmark's own score takes the likeliest option."
        ]
        if self.chosen["region"] == "yes":
            notes.append("What is asked about is shown as a region: not comparable with numbers without.")
        return Score("accuracy", {"accuracy": mean_score(results)}, {"kind": kinds}, notes=notes)

    def _sample(self, name: str, item: dict[str, Any]) -> Sample:
        images = (find_file(self.options.image_folder, name + ending) for ending in _ENDINGS)
        image = next((found for found in images if found is not None), None)
        if image is None:
            raise ValueError(f"no image {name} in {self.options.image_folder}, of {', '.join(_ENDINGS)}")
        if len(item["options"]) > len(_LETTERS):
            raise ValueError(f"{len(item['options'])} options; at most {len(_LETTERS)} have a letter")
        options = sorted(item["options"], key=lambda text: hashlib.sha256(f"{name} {text}".encode()).hexdigest())
        letter = _LETTERS[options.index(item["options"][0])]
        lines = [item["question"], *(f"{_LETTERS[k]}. {text}" for k, text in enumerate(options))]
        boxes = [Region.box(x, y, x + w, y + h) for x, y, w, h in item["bbox"]]
        shown = self.chosen["region"] == "yes"
        if shown:
            lines[0] = f"{' '.join(['<region>'] * len(boxes))} {lines[0]}"
        return Sample(
            id=name,
            images=(image,),
            question="\n".join([*lines, *filter(None, [self.chosen["suffix"]])]),
            reference=letter,
            specs=tuple(boxes) if shown else (),
            location=name,
            extra={
                "kind": name.partition("/")[0],
                "options": dict(zip(_LETTERS, options, strict=False)),
                "areas": [box[2] * box[3] for box in item["bbox"]],
            },
        )
