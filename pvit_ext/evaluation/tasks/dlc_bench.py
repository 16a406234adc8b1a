"""DLC-Bench: detailed descriptions of regions, judged by questions of several choices about each description.

Source: Describe Anything (arXiv 2504.16072), whose judge reads the description alone, and GAR (arXiv 2510.18876), whose
judge also sees the region. The questions are the benchmark's. An object that the judge does not recognise in its
description has nothing above 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pvit_ext.data.convert.base import Setting
from pvit_ext.data.image_files import path_of
from pvit_ext.evaluation.coco_file import CocoFile
from pvit_ext.evaluation.fields import text_of
from pvit_ext.evaluation.judge.choices import NO, YES, numbered, read_choice
from pvit_ext.evaluation.judge.prompts import SETTING, fill, read_prompt, source_of
from pvit_ext.evaluation.judge.task import UNREADABLE, JudgedTask, JudgeQuestion, StoredReplies
from pvit_ext.evaluation.measures import grouped, mean
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.evaluation.task import Published, TaskOptions
from pvit_ext.files import read_json
from pvit_ext.regions.mask import PendingMask

if TYPE_CHECKING:
    from pvit_ext.data.generate.request import ImagePart

_FIELDS = ("pred_caption", "question_text_str")
_OURS = """\
Below is a description of one object{where}, and a question about the description with its possible answers.
Judge by the description{by}: pick the answer that comes nearest, even if no answer fits to the word.
Reply with that answer's letter and text alone, without any explanation.

Description:
{pred_caption}

Question:
{question_text_str}
"""
_SEES = {
    "text": {"where": "", "by": " alone"},
    "image": {"where": " of the image", "by": ", and by the image where the question asks for it"},
}
_LLAMA, _GPT = "Llama-3.1-8B-Instruct", "gpt-4o-2024-11-20"
_SOURCE = "GAR-Bench's repository"
_NOT_MENTIONED = -1
"""Worth 0: what the script makes of a reply that picks no choice."""


def _published(judge: str, values: Mapping[str, tuple[float, float, float]], note: str = "") -> list[Published]:
    names = ("average", "positive", "negative")
    return [
        Published(f"{system}, judge {judge}", name, value, _SOURCE + note, verified=True)
        for system, three in values.items()
        for name, value in zip(names, three, strict=True)
    ]


_THEIRS = {
    "text": _published(_LLAMA, {"GAR-1B": (0.679, 0.489, 0.870), "GAR-8B": (0.674, 0.502, 0.846)}),
    "image": _published(
        _GPT,
        {"GAR-1B": (0.771, 0.662, 0.880), "GAR-8B": (0.770, 0.680, 0.860)},
        " (of GAR-1B the stored replies give 76.7)",
    ),
}


class DlcBench(JudgedTask):
    """Means over objects of the values of the choices that the judge picks."""

    about = "DLC-Bench: detailed descriptions of regions, judged by questions (its folder with qa.json)"
    settings: ClassVar[dict[str, Setting]] = {
        "question": Setting("Describe <region> in detail.", "with <region>"),
        "judge_sees": Setting("text", "the description alone, or the region in the image too", tuple(_SEES)),
        "judge_prompt": Setting(SETTING.default, f"{SETTING.about}; or one of its files of judged outputs"),
        "unreadable": UNREADABLE,
    }
    max_new_tokens = 512
    judge_tokens = 300

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options)
        if self.chosen["question"].count("<region>") != 1:
            raise ValueError(f"--set question={self.chosen['question']!r} has to hold <region>, once")
        self.published = _THEIRS[self.chosen["judge_sees"]]
        self.qa = read_json(options.data / "qa.json")
        self.class_names = read_json(options.data / "class_names.json")
        self._recognition: dict[str, str] = {}
        self.judge_prompt = fill(_OURS, _SEES[self.chosen["judge_sees"]])
        if self.chosen["judge_prompt"]:
            self._use_prompt(Path(self.chosen["judge_prompt"]))

    def files(self) -> list[Path]:
        """Questions, names and regions."""
        return [self.options.data / name for name in ("qa.json", "class_names.json", "annotations.json")]

    def load(self) -> Iterator[Sample]:
        """A sample for each object; see :class:`~pvit_ext.evaluation.task.Task`.

        Raises:
            ValueError: for an object with questions and without a name or region.
        """
        found = {str(item["id"]): (item, image) for item, image in CocoFile.read(self.files()[2]).objects()}
        for id in self.qa:
            if id not in found or id not in self.class_names:
                raise ValueError(f"{self.options.data}: object {id} of qa.json has no annotation or no class name")
            item, image = found[id]
            location = f"annotations.json {id}"
            try:
                file, name = text_of(image, "file_name"), text_of(self.class_names, id)
                shape, area = item["segmentation"], float(item["area"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{self.options.data}: object {id} is none of DLC-Bench's ({error!r})") from error
            yield Sample(
                id=id,
                images=(path_of(self.options.image_folder, file),),
                question=self.chosen["question"],
                reference=name,
                specs=(PendingMask.parse(shape, 0, location),),
                location=location,
                extra={"size": item.get("size"), "frequency": item.get("frequency"), "areas": [area]},
            )

    def judge_questions(self, sample: Sample, answer: str) -> list[JudgeQuestion]:
        """Whether the object is recognised, then each question of the benchmark."""
        recognition = self._recognition.get(sample.id, self._recognised(sample))
        first = self._question(sample, answer, recognition, (YES, NO), None)
        rest = [
            self._question(sample, answer, one["question"], [text for text, _ in one["choices"]], _NOT_MENTIONED)
            for one in self.qa[sample.id]
        ]
        return [first, *rest]

    def verdict(self, sample: Sample, readings: Sequence[Any]) -> Judged | None:
        """Half the sum of both means; None where recognition is not known, or a mean would be of nothing."""
        parts = self._parts(sample, readings)
        if parts is None or parts[0] is None or (parts[1] is None and self._has_negatives(sample)):
            return None
        said = ("" if readings[0] == 0 else "not ") + "recognised, positive"
        numbers = ", negative ".join(f"{value:.2f}" for value in parts if value is not None)
        return Judged(f"{said} {numbers}", mean([value for value in parts if value is not None]))

    def score(self, results: Sequence[Result]) -> Score:
        """Means over objects of their means over questions, and half the sum of both."""
        parts = [self._parts(one.sample, self.readings[one.sample.id]) or (None, None) for one in results]
        positive, negative = (mean([value for value in some if value is not None]) for some in zip(*parts, strict=True))
        recognised = mean([float(self.readings[one.sample.id][0] == 0) for one in results])
        metrics = {
            "average": (positive + negative) / 2,
            "positive": positive,
            "negative": negative,
            "recognised": recognised,
        }
        names = {"size by the benchmark": "size", "frequency of the class": "frequency"}
        groups = {name: grouped(results, partial(_extra, key)) for name, key in names.items()}
        sees = {"text": "the description alone", "image": "the region and its mask beside the description"}
        notes = [
            f"The judge saw {sees[self.chosen['judge_sees']]}. Numbers of another judge, or of one that saw other "
            "things, are no measure for these. Question and longest answer are ours."
        ]
        return Score("average", metrics, groups, notes=notes)

    def stored_answers(self, path: Path) -> Mapping[str, str] | None:
        """Descriptions by object, or a file of judged outputs.

        Raises:
            ValueError: for another kind of JSON.
        """
        if path.suffix != ".json":
            return None
        found: dict[str, Any] = {
            id: one.get("pred") if isinstance(one, dict) else one for id, one in _objects(path).items()
        }
        if wrong := [id for id, text in found.items() if not isinstance(text, str)]:
            raise ValueError(f"{path}: object {wrong[0]} has no description")
        return found

    def stored_replies(self, path: Path) -> dict[str, StoredReplies]:
        """Those of a file of judged outputs: recognition, positives, negatives, as the questions stand.

        Raises:
            ValueError: for a file of another kind.
        """
        found = {}
        for id, one in _objects(path).items():
            try:
                details = [*one["details_recognition"], *one["details_positives"], *one["details_negatives"]]
                found[id] = StoredReplies([str(detail["pred_answer"]) for detail in details], one["pred"])
            except (KeyError, TypeError) as error:
                raise ValueError(f"{path}: object {id} has no judge's replies ({error!r}): see *_eval.json") from error
        return found

    def _parts(self, sample: Sample, readings: Sequence[Any]) -> tuple[float | None, float | None] | None:
        """The means over positive and negative questions; None where recognition is not known."""
        recognised, *picked = readings
        if recognised is None:
            return None
        values: dict[str, list[float]] = {"positive": [], "negative": []}
        for question, index in zip(self.qa[sample.id], picked, strict=True):
            if index is not None:
                value = 0.0 if index == _NOT_MENTIONED else float(question["choices"][index][1])
                values[question["type"]].append(value if recognised == 0 else min(0.0, value))
        positive, negative = (mean(some) if some else None for some in values.values())
        return positive, negative

    def _has_negatives(self, sample: Sample) -> bool:
        return any(question["type"] == "negative" for question in self.qa[sample.id])

    def _question(
        self, sample: Sample, answer: str, question: str, choices: Sequence[str], by_script: int | None
    ) -> JudgeQuestion:
        text = fill(self.judge_prompt, {"pred_caption": answer, "question_text_str": numbered(question, choices)})
        return JudgeQuestion(partial(self._content, sample, text), partial(read_choice, choices=choices), by_script)

    def _content(self, sample: Sample, text: str, side: int) -> list[str | ImagePart]:
        if self.chosen["judge_sees"] == "text":
            return [text]
        from pvit_ext.evaluation.judge.images import image_of

        crop, mask = image_of(sample, side, "crop"), image_of(sample, side, "mask")
        return ["The image:\n", crop, "\nThe mask of the image:\n", mask, f"\n{text}\n"]

    def _recognised(self, sample: Sample) -> str:
        if self.chosen["judge_sees"] == "text":
            return f"Could the description be of this, or of a thing of a similar kind: {sample.reference}?"
        return (
            f"The image shows this: {sample.reference}. Going by the image, could the description be of it, or of a "
            "thing of a similar kind?"
        )

    def _use_prompt(self, path: Path) -> None:
        self.prompt_source = source_of(path)
        if path.suffix != ".json":
            self.judge_prompt = read_prompt(path, _FIELDS)
            return
        for id, one in _objects(path).items():
            try:
                (recognition,) = one["details_recognition"]
                shown = numbered(recognition["question"], [text for text, _ in recognition["choices"]])
                self.judge_prompt = (
                    one["prompt"][0].replace(one["pred"], "{pred_caption}").replace(shown, "{question_text_str}")
                )
                self._recognition[id] = recognition["question"]
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise ValueError(f"{path}: object {id} has no judge's prompt ({error!r}): see *_eval.json") from error
        if not all("{" + name + "}" in self.judge_prompt for name in _FIELDS):
            raise ValueError(f"{path}: the judge's prompt does not hold the description and the question")


def _objects(path: Path) -> dict[str, Any]:
    """What the file has for each object; beside them, files of judged outputs may hold the means of all."""
    return {id: one for id, one in read_json(path).items() if not id.startswith("avg_")}


def _extra(key: str, result: Result) -> str | None:
    value: str | None = result.sample.extra[key]
    return value
