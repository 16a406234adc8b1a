"""MDVP-Bench: a judge that sees the marked image rates a model's answer and a reference from 1 to 10.

Source: SPHINX-V (arXiv 2403.20271), in the copy of GAR's repository; the judge's prompt is the benchmark's rule.json.
Each question is judged on its own image with its own reference: the copy's transfer.py writes the captions of all
phases into each, so that its published numbers rate the first ten against every phase's images, and compare with none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pvit_ext.data.convert.base import Setting
from pvit_ext.data.image_files import path_of
from pvit_ext.evaluation.fields import given, text_of
from pvit_ext.evaluation.judge.pairs import BY_SCRIPT, SYSTEM, Pair, pair_text, read_pair, relative, relative_by
from pvit_ext.evaluation.judge.task import UNREADABLE, JudgedTask, JudgeQuestion
from pvit_ext.evaluation.measures import mean
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.evaluation.task import TaskOptions
from pvit_ext.files import read_json, read_text
from pvit_ext.regions.region import Region

if TYPE_CHECKING:
    from pvit_ext.data.generate.request import ImagePart

KINDS = ("detailed_caption", "brief_caption", "QA", "Inter_Relationship")
_CONTEXTS = {
    "natural": "The image is a natural image.",
    "ocr_doc": "The image contains text, and the user wishes to know the content of the text.",
    "ocr_spotting": "The image contains text, and the user wishes to know the content of the text.",
    "multipanel": "The image is a multi-panel figure.",
    "android": "The image is an android screenshot.",
    "web": "The image is a webpage screenshot.",
}
DOMAINS = {
    "natural": ("natural",),
    "OCR": ("ocr_doc", "ocr_spotting"),
    "multi-panel": ("multipanel",),
    "screenshot": ("android", "web"),
}
"""Domain -> the parts whose mean it is."""
_NAMES = {"box": "Region", "point": "Mark"}


class MdvpBench(JudgedTask):
    """The mean rating of the model over that of the reference, for each domain."""

    about = "MDVP-Bench: answers about marked regions, rated beside a reference by a judge (its folder with rule.json)"
    settings: ClassVar[dict[str, Setting]] = {
        "kind": Setting(KINDS[0], "of the questions", (*KINDS, "all")),
        "region": Setting("box", "what is shown", tuple(_NAMES)),
        "unreadable": UNREADABLE,
    }
    max_new_tokens = 1024
    judge_tokens = 1024
    prompt_source = "rule.json of the benchmark"

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options)
        rules = read_json(options.data / "annotations" / "rule.json")
        if self.chosen["region"] not in rules:
            raise ValueError(f"{options.data}/annotations/rule.json has no rule for {self.chosen['region']}")
        self.rule: Mapping[str, str] = rules[self.chosen["region"]]

    def files(self) -> list[Path]:
        """The rule, and the questions of each phase."""
        kinds = KINDS if self.chosen["kind"] == "all" else (self.chosen["kind"],)
        phases = [f"{part}_{kind}" for part in _CONTEXTS for kind in kinds]
        paths = [self.options.data / "data" / one / f"{one}_{self.chosen['region']}.json" for one in phases]
        return [self.options.data / "annotations" / "rule.json", *(path for path in paths if path.is_file())]

    def load(self) -> Iterator[Sample]:
        """A sample for each question; see :class:`~pvit_ext.evaluation.task.Task`.

        Raises:
            ValueError: naming a question that is none of MDVP-Bench's.
        """
        for path in self.files()[1:]:
            try:
                items = [dict(one) for one in json.loads(read_text(path))]
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path} is no list of MDVP-Bench's questions ({error})") from error
            for item in items:
                location = f"{path.name} question {item.get('question_id')}"
                try:
                    yield self._sample(path.parent.name, location, item)
                except (KeyError, TypeError, ValueError) as error:
                    raise ValueError(f"{location} is none of MDVP-Bench's ({error!r})") from error

    def judge_questions(self, sample: Sample, answer: str) -> list[JudgeQuestion]:
        """One: both answers, the reference first, and the image with its regions drawn."""
        context = _CONTEXTS[sample.extra["part"]]
        text = pair_text(context, sample.extra["asked"], (sample.reference, answer), self.rule)
        return [JudgeQuestion(partial(_content, sample, text), read_pair, BY_SCRIPT, SYSTEM)]

    def verdict(self, sample: Sample, readings: Sequence[Any]) -> Judged | None:
        """The model's points, of 10."""
        (pair,) = readings
        return None if pair is None else Judged(f"reference {pair[0]:g}, answer {pair[1]:g}", pair[1] / 10)

    def score(self, results: Sequence[Result]) -> Score:
        """For each domain, the mean of its parts; and the mean of the domains."""
        pairs: list[Pair] = [self.readings[one.sample.id][0] for one in results]
        parts = relative_by(results, pairs, lambda one: str(one.sample.extra["part"]))
        domains = {
            name: mean([parts[part][0] for part in some if part in parts])
            for name, some in DOMAINS.items()
            if any(part in parts for part in some)
        }
        notes = [
            "The model's mean rating over the reference's, which is always the first of the two. Each answer is judged "
            "on its own image with its own reference; numbers that GAR's repository publishes are not made so. What "
            "stands before the question, to name the regions, is ours."
        ]
        metrics = {"mean of domains": mean(list(domains.values())), **domains, "all": relative(pairs)}
        return Score("mean of domains", metrics, {"part": parts}, notes=notes)

    def _sample(self, phase: str, location: str, item: Mapping[str, Any]) -> Sample:
        regions = [
            Region.box(one[0], one[1], one[0] + one[2], one[1] + one[3])
            if self.chosen["region"] == "box"
            else Region.point(one[0], one[1])
            for one in item["bbox" if self.chosen["region"] == "box" else "points"]
        ]
        name = _NAMES[self.chosen["region"]]
        named = " ".join(f"<{name} {number}> is <region>." for number in range(1, len(regions) + 1))
        part = next(one for one in _CONTEXTS if phase.startswith(f"{one}_"))
        return Sample(
            id=f"{phase}/{item['question_id']}",
            images=(path_of(self.options.image_folder, f"{phase}/images/{text_of(item, 'image_name')}"),),
            question=f"{named}\n{text_of(item, 'question')}",
            reference=str(given(item, "gt_answers")),
            specs=tuple(regions),
            location=location,
            extra={"part": part, "asked": item["question"]},
        )


def _content(sample: Sample, text: str, side: int) -> list[str | ImagePart]:
    from pvit_ext.evaluation.judge.images import image_of

    return [text, image_of(sample, side, "drawn")]
