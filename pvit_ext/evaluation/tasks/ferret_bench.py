"""Ferret-Bench: a judge rates a model's answer and a reference from 1 to 10, knowing the image by its annotations.

Source: Ferret (arXiv 2310.07704); the judge's prompt is the benchmark's rule.json. Regions of a question are the boxes
in its text, fractions of the image. The judge is shown no image.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.base import Setting
from pvit_ext.data.image_files import path_of
from pvit_ext.data.json_records import read_json_records
from pvit_ext.evaluation.boxes import to_pixels
from pvit_ext.evaluation.judge.pairs import BY_SCRIPT, SYSTEM, Pair, pair_text, read_pair, relative, relative_by
from pvit_ext.evaluation.judge.task import UNREADABLE, JudgedTask, JudgeQuestion, StoredReplies
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.evaluation.task import Published, TaskOptions
from pvit_ext.files import read_json
from pvit_ext.regions.region import Region

CATEGORIES = ("refer_desc", "refer_reason", "ground_conv")
FOLDERS = ("refer_desc", "refer_caption", "refer_reason", "ground_conv")
"""Ferret's folder of refer_desc is called refer_caption."""
_BRACKETS = re.compile(r"\[.*?\]")
_NUMBERS = re.compile(r"-?(?:\d+\.?\d*|\.\d+)")
_GAR, _OSPREY = "GAR-Bench's repository", "Osprey's paper"
_THEIRS = (
    ("GAR-1B, judge gpt-4o-2024-11-20", "refer_desc", 0.560, _GAR, True),
    ("GAR-8B, judge gpt-4o-2024-11-20", "refer_desc", 0.648, _GAR, True),
    ("Osprey-7B, judge GPT-4", "refer_desc", 0.722, _OSPREY, False),
    ("Osprey-7B, judge GPT-4", "refer_reason", 0.678, _OSPREY, False),
    ("Ferret-7B, judge GPT-4", "refer_desc", 0.687, _OSPREY, False),
    ("Ferret-7B, judge GPT-4", "refer_reason", 0.673, _OSPREY, False),
)


class FerretBench(JudgedTask):
    """The mean rating of the model over that of the reference, for each category."""

    about = "Ferret-Bench: answers rated beside a reference by a judge (its folder ferret_gpt4_data with rule.json)"
    settings: ClassVar[dict[str, Setting]] = {
        "category": Setting("all", "of the questions", ("all", *CATEGORIES)),
        "scale": Setting(
            "auto",
            "what boxes in answers to ground_conv count; they are told as fractions",
            ("auto", "fraction", "thousand"),
        ),
        "unreadable": UNREADABLE,
    }
    scoring = (*JudgedTask.scoring, "scale")
    max_new_tokens = 512
    judge_tokens = 1024
    prompt_source = "rule.json of the benchmark"

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options)
        self.rules = read_json(options.data / "rule.json")
        self.published = [Published(*one) for one in _THEIRS if self.chosen["category"] in ("all", one[1])]

    def files(self) -> list[Path]:
        """The rule, and what each folder holds."""
        folders = [self.options.data / name for name in FOLDERS if (self.options.data / name).is_dir()]
        names = ("question.jsonl", "answer.jsonl", "context.jsonl")
        return [self.options.data / "rule.json", *(folder / name for folder in folders for name in names)]

    def load(self) -> Iterator[Sample]:
        """A sample for each question; see :class:`~pvit_ext.evaluation.task.Task`.

        Raises:
            ValueError: for a question without reference, context or rule.
        """
        for folder in dict.fromkeys(path.parent for path in self.files()[1:]):
            references = {line["question_id"]: line["text"] for line in _lines(folder / "answer.jsonl")}
            contexts = {line["image"]: line["text"] for line in _lines(folder / "context.jsonl")}
            for line in _lines(folder / "question.jsonl"):
                if self.chosen["category"] not in ("all", line["category"]):
                    continue
                yield self._sample(f"{folder.name}/question.jsonl {line['question_id']}", line, references, contexts)

    def judge_questions(self, sample: Sample, answer: str) -> list[JudgeQuestion]:
        """One: both answers, the reference first."""
        extra, rule = sample.extra, self.rules[sample.extra["category"]]
        answers = sample.reference, self.shown_to_judge(sample, answer)
        text = pair_text(extra["context"], extra["asked"], answers, rule)
        return [JudgeQuestion(lambda side: [text], read_pair, BY_SCRIPT, SYSTEM)]

    def shown_to_judge(self, sample: Sample, answer: str) -> str:
        """An answer without boxes; where they were asked for, with boxes as fractions."""
        if sample.extra["category"] != "ground_conv":
            return re.sub(r" ?\[.*?\]", "", answer)
        return _BRACKETS.sub(partial(_as_fractions, scale=self.chosen["scale"]), answer)

    def verdict(self, sample: Sample, readings: Sequence[Any]) -> Judged | None:
        """The model's points, of 10."""
        (pair,) = readings
        return None if pair is None else Judged(f"reference {pair[0]:g}, answer {pair[1]:g}", pair[1] / 10)

    def score(self, results: Sequence[Result]) -> Score:
        """For each category, and over all."""
        pairs: list[Pair] = [self.readings[one.sample.id][0] for one in results]
        groups = relative_by(results, pairs, lambda one: str(one.sample.extra["category"]))
        metrics = {name: value for name, (value, _) in groups.items()}
        notes = [
            "The model's mean rating over the reference's. The reference is always the first of the two, as in the "
            "benchmark's script."
        ]
        return Score("all", {"all": relative(pairs), **metrics}, {"category": groups}, notes=notes)

    def stored_answers(self, path: Path) -> Mapping[str, str] | None:
        """Lines of category and text in the order of the questions: GAR's have numbers of their own, without gaps.

        Raises:
            ValueError: for another number of answers than of questions, or one about another image.
        """
        if path.suffix != ".jsonl":
            return None
        lines = list(_lines(path, check=False))
        if not all({"question_id", "category", "text"} <= line.keys() for line in lines):
            return None
        found = {}
        for category in dict.fromkeys(line["category"] for line in lines):
            own = [line for line in lines if line["category"] == category]
            asked = [line for line in self._questions() if line["category"] == category]
            if len(own) != len(asked):
                raise ValueError(f"{path} has {len(own)} answers to the {len(asked)} questions of {category}")
            for line, question in zip(own, asked, strict=True):
                if line.get("image", question["image"]) != question["image"]:
                    raise ValueError(
                        f"{path}: an answer about {line['image']} stands where {question['image']} is asked"
                    )
                found[_id(question)] = line["text"]
        return found

    def _questions(self) -> Iterator[dict[str, Any]]:
        return itertools.chain.from_iterable(_lines(path) for path in self.files() if path.name == "question.jsonl")

    def stored_replies(self, path: Path) -> dict[str, StoredReplies]:
        """The ``content`` of reviews.

        Raises:
            ValueError: naming a line that is no review.
        """
        found = {}
        for line in _lines(path, check=False):
            if not {"question_id", "category", "content"} <= line.keys():
                raise ValueError(f"{path}: {str(line)[:80]} is no review with question_id, category and content")
            found[_id(line)] = StoredReplies([str(line["content"])], line.get("answer2"))
        return found

    def _sample(
        self, location: str, line: Mapping[str, Any], references: Mapping[Any, str], contexts: Mapping[str, str]
    ) -> Sample:
        asked, category = line["text"], line["category"]
        if line["question_id"] not in references or line["image"] not in contexts or category not in self.rules:
            raise ValueError(f"{location} has no answer of its number, no context of its image, or no rule")
        boxes = [[float(number) for number in _NUMBERS.findall(text)] for text in _BRACKETS.findall(asked)]
        return Sample(
            id=_id(line),
            images=(path_of(self.options.image_folder, line["image"]),),
            question=_BRACKETS.sub("<region>", asked),
            reference=references[line["question_id"]],
            specs=tuple(Region.box(a, b, c, d, normalized=True) for a, b, c, d in boxes),
            location=location,
            extra={"category": category, "asked": asked, "context": contexts[line["image"]]},
        )


def _as_fractions(found: re.Match[str], scale: str) -> str:
    numbers = [float(number) for number in _NUMBERS.findall(found[0])]
    if len(numbers) != 4:
        return ""
    a, b, c, d = numbers
    return "[" + ", ".join(f"{value:.3f}" for value in to_pixels((a, b, c, d), (1, 1), scale)) + "]"


def _id(line: Mapping[str, Any]) -> str:
    return f"{line['category']}/{line['question_id']}"


def _lines(path: Path, check: bool = True) -> Iterator[dict[str, Any]]:
    for found in read_json_records(path):
        line = found.value
        if not isinstance(line, dict) or (check and not {"question_id", "image", "category", "text"} <= line.keys()):
            raise ValueError(f"{path} line {found.line}: expected question_id, image, category and text")
        if wrong := [name for name in ("image", "category", "text") if not isinstance(line.get(name, ""), str)]:
            raise ValueError(f"{path} line {found.line}: {wrong[0]} is no text")
        yield line
