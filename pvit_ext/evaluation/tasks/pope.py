"""POPE: is an object in the image, yes or no; a check that training on regions did not harm whole images.

Source: arXiv 2305.10355; the reading of answers is that of its ``evaluate.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from pvit_ext.data.convert.base import Setting
from pvit_ext.data.image_files import path_of
from pvit_ext.data.json_records import read_json_records
from pvit_ext.evaluation.fields import text_of
from pvit_ext.evaluation.measures import confusion, mean, mean_score
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.evaluation.task import Published, Task, TaskOptions

_LLAVA = {"random": 0.873, "popular": 0.861, "adversarial": 0.842}
_NO = {"No", "not", "no"}
_EXPECTED = "expected image, text and label yes or no"


class Pope(Task):
    """Accuracy, precision, recall and F1 of "yes"."""

    about = "POPE: yes or no, is an object in the image (coco_pope_*.json)"
    settings: ClassVar[dict[str, Setting]] = {
        "suffix": Setting(
            "Answer the question using a single word or phrase.", "put behind each question, as LLaVA does"
        ),
    }
    max_new_tokens = 16

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options)
        parts = [part for part in _LLAVA if part in options.data.name]
        self.published = [Published("LLaVA-1.5-7B", "F1", _LLAVA[part], "LLaVA-1.5's paper") for part in parts]

    def load(self) -> Iterator[Sample]:
        """A sample for each line; see :class:`~pvit_ext.evaluation.task.Task`.

        Raises:
            ValueError: naming a line that is none of POPE's.
        """
        for number, found in enumerate(read_json_records(self.options.data)):
            line, location = found.value, f"{self.options.data.name} line {found.line}"
            try:
                text, label, name = (text_of(line, field) for field in ("text", "label", "image"))
            except (KeyError, TypeError) as error:
                raise ValueError(f"{location}: {_EXPECTED}, got {str(line)[:80]} ({error!r})") from error
            if label not in ("yes", "no"):
                raise ValueError(f"{location}: {_EXPECTED}, got {str(line)[:80]}")
            question = "\n".join(filter(None, [text, self.chosen["suffix"]]))
            image = path_of(self.options.image_folder, name)
            yield Sample(str(number), (image,), question, label, location=location, extra={"class": label})

    def parse(self, sample: Sample, answer: str) -> Judged:
        """Yes, unless one of the words No, not and no stands before the first dot; commas do not count."""
        words = answer.partition(".")[0].replace(",", "").split(" ")
        said = "no" if _NO & set(words) else "yes"
        return Judged(said, float(said == sample.reference))

    def score(self, results: Sequence[Result]) -> Score:
        """Yes is positive."""
        pairs = [(one.sample.reference, one.judged.said) for one in results]
        right, said, true = (
            sum(pair == ("yes", "yes") for pair in pairs),
            sum(one == "yes" for _, one in pairs),
            sum(reference == "yes" for reference, _ in pairs),
        )
        precision, recall = right / max(said, 1), right / max(true, 1)
        metrics = {
            "accuracy": mean_score(results),
            "precision": precision,
            "recall": recall,
            "F1": 2 * precision * recall / max(precision + recall, 1e-12),
            "share of yes": mean([float(one == "yes") for _, one in pairs]),
        }
        notes = ["An answer is read as POPE's evaluate.py does: what is not no is yes."]
        if empty := [one for one in results if not one.prediction.answer.strip()]:
            right = sum(one.judged.score == 1 for one in empty)
            notes.append(
                f"{len(empty)} answers are empty, as those that an external model refuses: read as yes, {right} of "
                "them count as right."
            )
        return Score("F1", metrics, confusion=confusion(results, ["yes", "no"]), notes=notes)
