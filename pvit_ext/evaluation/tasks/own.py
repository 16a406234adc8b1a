"""Your own set: any training file with short answers, each of which names a class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from pvit_ext.config import RECORD_KEY
from pvit_ext.data.convert.base import Setting
from pvit_ext.data.records import Record, load_records
from pvit_ext.data.schema import images_of
from pvit_ext.data.tags.tags import TAGS_KEY
from pvit_ext.evaluation.answers import alike_by_words, check_words, equal_class, normalise, only_name_within
from pvit_ext.evaluation.measures import balanced, confusion, mean_score, per_class
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.evaluation.task import Task
from pvit_ext.prompt import IMAGE_PLACEHOLDER, REGION_PLACEHOLDER

LONGEST = 6
"""Words of a short answer."""
_WITHIN = "accuracy, class within the answer"


class Own(Task):
    """Accuracy over the questions of a data file whose answers are classes, such as names of things."""

    about = "your own set: accuracy, balanced accuracy and confusion over any training file with short answers"
    settings: ClassVar[dict[str, Setting]] = {
        "match": Setting("whole", "the answer is a class, or holds just one as words", ("whole", "words")),
        "history": Setting("no", "ask each question of a record alone, or after the earlier turns", ("no", "yes")),
    }
    scoring = ("match",)

    def load(self) -> Iterator[Sample]:
        """A sample for each question; see :class:`~pvit_ext.evaluation.task.Task`.

        Raises:
            ValueError: naming the answer that is too long to be a class.
        """
        records = load_records(self.options.data, self.options.image_folder)
        samples = [one for number, record in enumerate(records) for one in self._of_record(number, record)]
        self.classes = sorted({str(sample.extra["class"]) for sample in samples})
        if self.chosen["match"] == "words":
            check_words(self.classes)
        return iter(samples)

    def parse(self, sample: Sample, answer: str) -> Judged:
        """The class that an answer names, by the setting ``match``."""
        said = (equal_class if self.chosen["match"] == "whole" else only_name_within)(answer, self.classes)
        return Judged(said, float(said == sample.extra["class"]))

    def score(self, results: Sequence[Result]) -> Score:
        """Accuracy, its mean over classes, and what always giving the commonest class would have."""
        classes = per_class(results, self.classes)
        alike, within = alike_by_words(self.classes), {}
        if alike is None:
            said = [only_name_within(one.prediction.answer, self.classes) for one in results]
            right = sum(name == one.sample.extra["class"] for name, one in zip(said, results, strict=True))
            within[_WITHIN] = right / len(results)
        metrics = {
            "accuracy": mean_score(results),
            "balanced accuracy": balanced(classes),
            **within,
            "majority class": max(count for _, count in classes.values()) / len(results),
            "no class": sum(one.judged.said is None for one in results) / len(results),
        }
        how = {"whole": "the whole answer is the class", "words": "just one class occurs in the answer as whole words"}
        notes = [
            f"An answer is right if {how[self.chosen['match']]}, after normalisation; {len(self.classes)} classes, "
            "those of the references."
        ]
        if alike is not None:
            notes.append(f"Without {_WITHIN!r}: {alike}.")
        return Score("accuracy", metrics, {"class": classes}, confusion(results, self.classes), notes)

    def _of_record(self, number: int, record: Record) -> Iterator[Sample]:
        turns = [turn["value"] for turn in record.data["conversations"]]
        first = 0  # region of the turn
        for turn in range(0, len(turns), 2):
            question, answer = turns[turn], turns[turn + 1]
            begin, first = first, first + question.count(REGION_PLACEHOLDER)
            end, first = first, first + answer.count(REGION_PLACEHOLDER)
            if end < first:
                self.leave_out("the answer points at a region")
                continue
            if not (name := normalise(answer)) or len(name.split()) > LONGEST:
                raise ValueError(
                    f"{record.location}: the answer {answer[:80]!r} is no class: this task scores answers of one to "
                    f"{LONGEST} words; leave such questions out of the file"
                )
            earlier = self.chosen["history"] == "yes"
            yield Sample(
                id=f"{number}.{turn // 2}",
                images=tuple(record.image_files),
                question=question if earlier else _alone(question, len(images_of(record.data))),
                reference=answer,
                specs=record.specs[0 if earlier else begin : end],
                folder=record.image_folder,
                history=tuple(zip(turns[0:turn:2], turns[1:turn:2], strict=True)) if earlier else (),
                location=f"{record.location}, question {turn // 2 + 1}",
                extra={"class": name},
                adapters=record.data.get(RECORD_KEY),
                tags=record.data.get(TAGS_KEY),
            )


def _alone(question: str, images: int) -> str:
    """A question without the turns before it; where it does not say where the images go, they come first."""
    plain = question.replace(IMAGE_PLACEHOLDER, "").strip()
    usual = question in (plain, f"{IMAGE_PLACEHOLDER}\n{plain}")
    return plain if usual or question.count(IMAGE_PLACEHOLDER) != images else question
