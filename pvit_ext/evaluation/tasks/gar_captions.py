"""GAR-Bench's captions: how two marked regions relate, told in a sentence or in a detailed description, and judged.

Source: arXiv 2510.18876 and its repository. The judge sees the image, each region's surroundings and mask, and says
True or False.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pvit_ext.data.convert.base import Setting
from pvit_ext.data.generate.reply import BadReply
from pvit_ext.data.image_files import path_of
from pvit_ext.evaluation.fields import text_of
from pvit_ext.evaluation.judge.prompts import SETTING, fill, read_prompt, source_of
from pvit_ext.evaluation.judge.task import UNREADABLE, JudgedTask, JudgeQuestion, StoredReplies
from pvit_ext.evaluation.measures import grouped, mean_score
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.evaluation.task import Published, TaskOptions
from pvit_ext.evaluation.tasks.gar_bench import items_of
from pvit_ext.regions.mask import PendingMask

if TYPE_CHECKING:
    from pvit_ext.data.generate.request import ImagePart

_JUDGE = "gpt-4o-2024-11-20"
_SOURCE = "GAR-Bench's repository, recomputed from its stored replies"
_SIMPLE, _DETAILED = "GAR-Bench-Caption-Simple", "GAR-Bench-Caption-Detailed"
_FIELDS = {
    _SIMPLE: ("answer", "model_output"),
    _DETAILED: ("subject_name", "object_name", "predicate_name", "model_output"),
}
_OURS = {
    _SIMPLE: """\
The images above show one image and its marked regions. A model was asked how regions relate.

Right answer: {answer}
The model's answer: {model_output}

Does the model's answer say the same as the right answer? Other words for the same thing are as good.
Reply with the one word True or False, without any explanation.
""",
    _DETAILED: """\
The images above show one image and its marked regions. A model described the first region and how it relates to the
second.

The first region: {subject_name}
The second region: {object_name}
How the first relates to the second: {predicate_name}
The model's description: {model_output}

Does the description name the first region ({subject_name}), and does it say in some words that it is {predicate_name}
the second ({object_name})? Only if it does both, reply with the one word True, else with the one word False, without
any explanation.
""",
}
_THEIRS = {
    _SIMPLE: {"GAR-1B": 54 / 97, "GAR-8B": 62 / 97},
    _DETAILED: {"GAR-1B": 71 / 107, "GAR-8B": 74 / 107},
}


class GarBenchCaptions(JudgedTask):
    """Share of descriptions that the judge calls true."""

    about = "GAR-Bench captions: how regions relate, judged (GAR-Bench-Caption-{Simple,Detailed}.json)"
    settings: ClassVar[dict[str, Setting]] = {
        "question": Setting(
            "Describe <Prompt0> in detail, and how it relates to <Prompt1>.",
            "of the detailed captions, which have none",
        ),
        "judge_prompt": SETTING,
        "unreadable": UNREADABLE,
    }
    max_new_tokens = 256

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options)
        self.items = items_of(options.data)
        self.kind = _DETAILED if self.items and "subject_name" in self.items[0] else _SIMPLE
        if self.kind == _SIMPLE and "question" in options.settings:
            raise ValueError(f"--set question cannot apply: {options.data} has questions of its own; leave it out")
        self.published = [
            Published(f"{system}, judge {_JUDGE}", "accuracy", value, _SOURCE, verified=True)
            for system, value in _THEIRS[self.kind].items()
        ]
        self.judge_prompt = _OURS[self.kind]
        if self.chosen["judge_prompt"]:
            path = Path(self.chosen["judge_prompt"])
            self.prompt_source, self.judge_prompt = source_of(path), read_prompt(path, _FIELDS[self.kind])

    def load(self) -> Iterator[Sample]:
        """A sample for each item; see :class:`~pvit_ext.evaluation.task.Task`.

        Raises:
            ValueError: naming an item that is none of GAR-Bench's captions.
        """
        for number, item in enumerate(self.items):
            location = f"{self.options.data.name} item {number}"
            try:
                masks = [
                    PendingMask.parse(one, 0, f"{location}, mask {index}")
                    for index, one in enumerate(item["mask_rles"])
                ]
                names = [f"<Prompt{index}> is <region>." for index in range(len(masks))]
                text = text_of(item, "question") if self.kind == _SIMPLE else self.chosen["question"]
                fields = {name: text_of(item, name) for name in _FIELDS[self.kind] if name != "model_output"}
                image = path_of(self.options.image_folder, text_of(item, "image"))
            except (KeyError, TypeError) as error:
                raise ValueError(f"{location} is none of {self.kind}'s ({error!r})") from error
            yield Sample(
                id=str(number),
                images=(image,),
                question=" ".join([*names, text]),
                reference=fields.get("answer", ", ".join(fields.values())),
                specs=tuple(masks),
                location=location,
                extra=fields,
            )

    def judge_questions(self, sample: Sample, answer: str) -> list[JudgeQuestion]:
        """One: is it true."""
        text = fill(self.judge_prompt, {**sample.extra, "model_output": answer})
        return [JudgeQuestion(partial(_content, sample, text), _read, "False")]

    def verdict(self, sample: Sample, readings: Sequence[Any]) -> Judged | None:
        """Right if it is true."""
        (said,) = readings
        return None if said is None else Judged(said, float(said == "True"))

    def score(self, results: Sequence[Result]) -> Score:
        """The share of true ones."""
        groups = {}
        if self.kind == _DETAILED:
            groups["relation"] = grouped(results, lambda one: str(one.sample.extra["predicate_name"]))
        notes = [
            "Right is what the judge calls just True. What stands before the question, to name the regions, is ours"
            + (", and so is the question." if self.kind == _DETAILED else ".")
        ]
        return Score("accuracy", {"accuracy": mean_score(results)}, groups, notes=notes)

    def stored_answers(self, path: Path) -> Mapping[str, str] | None:
        """The ``model_output`` of GAR's own files.

        Raises:
            ValueError: for answers to other items, or naming an item without one.
        """
        if path.suffix != ".json":
            return None
        found = self._stored(path, "model_output")
        if missing := [id for id, one in found.items() if not isinstance(one["model_output"], str)]:
            raise ValueError(f"{path} item {missing[0]} has no model_output that is a text")
        return {id: one["model_output"] for id, one in found.items()}

    def stored_replies(self, path: Path) -> dict[str, StoredReplies]:
        """The ``eval_result`` of GAR's own files.

        Raises:
            ValueError: for replies to other items.
        """
        found = self._stored(path, "eval_result")
        return {id: StoredReplies([str(one["eval_result"])], one.get("model_output")) for id, one in found.items()}

    def _stored(self, path: Path, key: str) -> dict[str, dict[str, Any]]:
        stored = items_of(path)
        told = [name for name in _FIELDS[self.kind] if name != "model_output"]
        pairs = [[[one.get(name) for name in told] for one in some] for some in (stored, self.items)]
        if pairs[0] != pairs[1]:
            raise ValueError(f"{path} is about other items than those of {self.options.data}")
        if missing := [number for number, one in enumerate(stored) if key not in one]:
            raise ValueError(f"{path} item {missing[0]} has no {key}")
        return {str(number): one for number, one in enumerate(stored)}


def _read(reply: str) -> str:
    if reply not in ("True", "False"):
        raise BadReply("the reply has to be the one word True or False")
    return reply


def _content(sample: Sample, text: str, side: int) -> list[str | ImagePart]:
    from pvit_ext.evaluation.judge.images import image_of

    parts: list[str | ImagePart] = ["\n1. The original image:\n", image_of(sample, side)]
    for index in range(len(sample.different_regions())):
        name = f"<Prompt{index}>"
        parts += [f"\n{2 * index + 2}. {name}:\n", image_of(sample, side, "crop", index)]
        parts += [f"\n{2 * index + 3}. The mask of {name}:\n", image_of(sample, side, "mask", index)]
    return [*parts, text]
