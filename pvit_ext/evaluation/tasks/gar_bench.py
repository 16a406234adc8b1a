"""GAR-Bench VQA: questions of four choices about marked regions.

Source: arXiv 2510.18876 and its repository, whose rule for a right answer is the default here. The questions are the
benchmark's; how choices and regions are put into one prompt is ours.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.base import Setting
from pvit_ext.data.image_files import path_of
from pvit_ext.evaluation.answers import only_letter
from pvit_ext.evaluation.fields import given, text_of, texts_of
from pvit_ext.evaluation.measures import confusion, grouped, mean_score
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.evaluation.task import Published, Task
from pvit_ext.files import read_text
from pvit_ext.prompt import REGION_PLACEHOLDER
from pvit_ext.regions.mask import PendingMask

_PROMPT = re.compile(r"<Prompt(\d+)>")
_SOURCE = "GAR-Bench's repository, recomputed from its stored answers"
LETTERS = ("A", "B", "C", "D")


class GarBenchVqa(Task):
    """Share of right letters, of all and by type of question."""

    about = "GAR-Bench VQA: letters of four choices about marked regions (GAR-Bench-VQA.json)"
    settings: ClassVar[dict[str, Setting]] = {
        "match": Setting("exact", "the answer is the letter (GAR's rule), or holds one", ("exact", "letter")),
        "suffix": Setting("Answer with the option's letter from the given choices directly.", "behind the choices"),
    }
    scoring = ("match",)
    max_new_tokens = 16
    published = (
        Published("GAR-1B", "accuracy", 203 / 424, _SOURCE, verified=True),
        Published("GAR-8B", "accuracy", 245 / 424, _SOURCE, verified=True),
        Published("GPT-4o", "accuracy", 0.535, "GAR's paper"),
    )

    def load(self) -> Iterator[Sample]:
        """A sample for each question; see :class:`~pvit_ext.evaluation.task.Task`.

        Raises:
            ValueError: naming an item that is none of GAR-Bench's.
        """
        for number, item in enumerate(items_of(self.options.data)):
            location = f"{self.options.data.name} item {number}"
            try:
                masks = [
                    PendingMask.parse(one, 0, f"{location}, mask {index}")
                    for index, one in enumerate(item["mask_rles"])
                ]
                text = "\n".join(
                    [text_of(item, "question"), *texts_of(item, "choices"), *filter(None, [self.chosen["suffix"]])]
                )
                specs = tuple(masks[int(index)] for index in _PROMPT.findall(text))
                image, answer, kind = text_of(item, "image"), text_of(item, "answer"), str(given(item, "type"))
            except (KeyError, TypeError, IndexError) as error:
                raise ValueError(f"{location} is none of GAR-Bench VQA ({error!r}): see GAR-Bench-VQA.json") from error
            yield Sample(
                id=str(number),
                images=(path_of(self.options.image_folder, image),),
                question=_PROMPT.sub(REGION_PLACEHOLDER, text),
                reference=answer,
                specs=specs,
                location=location,
                extra={"class": answer, "type": kind, "question": item["question"]},
            )

    def parse(self, sample: Sample, answer: str) -> Judged:
        """Right if answer and letter are equal in lower case; nothing is stripped, as in GAR's script."""
        if self.chosen["match"] == "exact":
            said = answer.upper() if answer.upper() in LETTERS else None
            return Judged(said, float(answer.lower() == sample.reference.lower()))
        said = only_letter(answer, LETTERS)
        return Judged(said, float(said == sample.reference))

    def score(self, results: Sequence[Result]) -> Score:
        """Accuracy, and that of each type of question."""
        rule = {
            "exact": "the answer is its letter, case aside and nothing else (GAR's rule)",
            "letter": "just one capital letter A to D stands in the answer, and it is the right one (not GAR's rule)",
        }[self.chosen["match"]]
        return Score(
            "accuracy",
            {"accuracy": mean_score(results)},
            {"type": grouped(results, lambda one: str(one.sample.extra["type"]))},
            confusion(results, LETTERS),
            [f"An answer is right if {rule}."],
        )

    def stored_answers(self, path: Path) -> Mapping[str, str] | None:
        """The ``model_output`` of GAR's own files.

        Raises:
            ValueError: for answers to other questions, or naming an item without one.
        """
        if path.suffix != ".json":
            return None
        stored, asked = items_of(path), items_of(self.options.data)
        if [one.get("question") for one in stored] != [one.get("question") for one in asked]:
            raise ValueError(f"{path} answers other questions than those of {self.options.data}")
        if missing := [number for number, one in enumerate(stored) if not isinstance(one.get("model_output"), str)]:
            raise ValueError(f"{path} item {missing[0]} has no model_output that is a text")
        return {str(number): one["model_output"] for number, one in enumerate(stored)}


def items_of(path: Path) -> list[dict[str, Any]]:
    """The items of one of GAR-Bench's files.

    Raises:
        ValueError: for a file of another kind.
    """
    try:
        found = json.loads(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ValueError(f"{path} is no list of GAR-Bench's items")
    return found
