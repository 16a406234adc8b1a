"""FineEval: instructions about regions, whose answers people rank beside those of four systems.

Source: PVIT (arXiv 2308.13437), whose answers are of 32 tokens. The paper's metric is people's ranking: without filled
sheets there is no score, but a page and a sheet to rank on. A judge model in place of people is another metric.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pvit_ext.data.convert.base import Setting
from pvit_ext.data.generate.reply import BadReply
from pvit_ext.data.image_files import path_of
from pvit_ext.data.json_records import read_json_records
from pvit_ext.evaluation.fields import text_of
from pvit_ext.evaluation.judge.prompts import SETTING, fill, read_prompt, source_of
from pvit_ext.evaluation.judge.task import JudgedTask, JudgeQuestion
from pvit_ext.evaluation.measures import mean
from pvit_ext.evaluation.ranking.comparison import LETTERS, Comparison
from pvit_ext.evaluation.ranking.page import write_ranking_page
from pvit_ext.evaluation.ranking.sheet import places_of, read_sheet, write_sheet
from pvit_ext.evaluation.ranking.standings import Places, agreement, interval, mean_places, share_first, wins
from pvit_ext.evaluation.sample import Judged, Result, Sample, Score
from pvit_ext.evaluation.task import TaskOptions
from pvit_ext.files import atomic_write
from pvit_ext.prompt import number_regions, parse_regions
from pvit_ext.regions.region import RegionError

if TYPE_CHECKING:
    from pvit_ext.data.generate.request import ImagePart

SYSTEMS = "pvit,llava,shikra,gpt4roi"
_OURS = """\
The image shows what a question is about; the regions that it names are outlined and numbered in their order. Several
assistants answered the question.

Question: {question}

{answers}

Rank the answers by how right and how helpful they are for this image. Do not mind their order above or their length.
Reply with one line, the letters from the best answer to the worst with commas between, such as {example}, and nothing
else.
"""
_PLACE = "mean place"


class FineEval(JudgedTask):
    """Mean place among the systems, by people's filled sheets or by a judge model."""

    about = "FineEval: instructions about regions, ranked by people beside four systems (its folder)"
    settings: ClassVar[dict[str, Setting]] = {
        "systems": Setting(SYSTEMS, "whose stored answers are ranked too, files NAME.jsonl of the folder, with commas"),
        "name": Setting("this run", "of this run's answers in the rankings"),
        "sheets": Setting("", "filled sheets, with commas: one a person"),
        "judge_prompt": SETTING,
    }
    scoring = (*JudgedTask.scoring, "systems", "name", "sheets")
    by_size = False
    judge_needed = False
    judge_tokens = 64

    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options)
        self.systems = [name.strip() for name in self.chosen["systems"].split(",") if name.strip()]
        names = [self.chosen["name"], *self.systems]
        if not self.systems or len(set(names)) < len(names) or len(names) > len(LETTERS):
            raise ValueError(
                f"--set systems={self.chosen['systems']} and --set name={self.chosen['name']}: give 1 to "
                f"{len(LETTERS) - 1} systems, each once, and this run a name of its own"
            )
        self.others = {name: _outputs(options.data / f"{name}.jsonl") for name in self.systems}
        self.sheets = [Path(name.strip()) for name in self.chosen["sheets"].split(",") if name.strip()]
        if missing := [path for path in self.sheets if not path.is_file()]:
            raise ValueError(f"--set sheets={self.chosen['sheets']}: there is no file {missing[0]}")
        self.judge_prompt = _OURS
        if self.chosen["judge_prompt"]:
            path = Path(self.chosen["judge_prompt"])
            self.prompt_source, self.judge_prompt = source_of(path), read_prompt(path, ("question", "answers"))

    def files(self) -> list[Path]:
        """The instructions."""
        return [self.options.data / "instructions.jsonl"]

    def load(self) -> Iterator[Sample]:
        """A sample for each instruction; see :class:`~pvit_ext.evaluation.task.Task`.

        Raises:
            ValueError: naming a line that is none of FineEval's, or a system with answers to other instructions.
        """
        lines = [one.value for one in read_json_records(self.files()[0])]
        for name, outputs in self.others.items():
            _check_same(self.options.data / f"{name}.jsonl", outputs, lines)
        for number, line in enumerate(lines):
            location = f"instructions.jsonl line {number + 1}"
            try:
                question, regions = parse_regions(text_of(line, "instruction"), location)
                image = path_of(self.options.image_folder, text_of(line, "image"))
            except (KeyError, TypeError, RegionError) as error:
                raise ValueError(f"{location} is none of FineEval's ({error})") from error
            yield Sample(str(number), (image,), question, "", tuple(regions), location=location)

    def judge_questions(self, sample: Sample, answer: str) -> list[JudgeQuestion]:
        """One: the order of all answers.

        Raises:
            ValueError: where there are filled sheets too.
        """
        if self.sheets:
            raise ValueError("--set sheets= is people's ranking and --judge-model another metric: give one of them")
        one = self._comparison(sample, answer)
        told = {
            "question": number_regions([sample.question])[0],
            "answers": "\n".join(f"{letter}: {text}" for letter, text in one.letters().items()),
            "example": ", ".join(reversed(one.letters())),
        }
        text = fill(self.judge_prompt, told)
        return [JudgeQuestion(partial(_content, sample, text), partial(_read_order, comparison=one), None)]

    def verdict(self, sample: Sample, readings: Sequence[Any]) -> Judged | None:
        """1 for the first of all and 0 for the last."""
        (places,) = readings
        return None if places is None else Judged(f"place {places[self.chosen['name']]:g}", self._worth([places]))

    def parse(self, sample: Sample, answer: str) -> Judged:
        """The judge's verdict; people's is known when all answers are."""
        return super().parse(sample, answer) if sample.id in self.readings else Judged(None, 0.0)

    def score(self, results: Sequence[Result]) -> Score:
        """The mean place, how often it is the first, and how often it wins against each system.

        Raises:
            ValueError: for a sheet of other answers.
        """
        people = self._people(results)
        if not people:
            return Score("", {}, notes=["No score yet: rank the answers on ranking.html, then give --set sheets=FILE"])
        name = self.chosen["name"]
        by_item = {
            one.sample.id: [some[one.sample.id] for some in people.values() if one.sample.id in some] for one in results
        }
        ranked = {id: some for id, some in by_item.items() if some}
        if not ranked:
            raise ValueError(f"{self.chosen['sheets']}: nothing is ranked in these sheets")
        every = [one for some in ranked.values() for one in some]
        metrics = {_PLACE: mean_places(every)[name], "first": share_first(every, name)}
        metrics |= {f"wins against {other}": wins(every, name, other) for other in self.systems}
        groups = {
            "system": {system: (place, len(every)) for system, place in mean_places(every).items()},
            "rater": {who: (mean_places(list(some.values()))[name], len(some)) for who, some in people.items() if some},
        }
        each = [self._worth(by_item[one.sample.id]) if by_item[one.sample.id] else 1.0 for one in results]
        return Score(_PLACE, metrics, groups, notes=self._notes(ranked), as_they_are=[_PLACE], each=each)

    def write(self, out: Path, results: Sequence[Result]) -> list[Path]:
        """Without a ranking, what is ranked on: the page, an empty sheet, and, for nobody who ranks, whose is what."""
        if self.readings or self.sheets:
            return []
        comparisons = [self._comparison(one.sample, one.prediction.answer) for one in results]
        together = hashlib.sha256(" ".join(one.mark for one in comparisons).encode()).hexdigest()[:8]
        page, sheet, key = (out / name for name in ("ranking.html", f"ranking-{together}.csv", "ranking_key.json"))
        if not sheet.exists():  # else somebody may be filling it
            write_sheet(sheet, comparisons)
        write_ranking_page(page, comparisons, sheet.name)
        order = {one.sample.id: dict(zip(LETTERS, one.order, strict=False)) for one in comparisons}
        with atomic_write(key) as temporary:
            temporary.write_text(json.dumps(order, indent=2) + "\n", encoding="utf-8")
        return [page, sheet]

    def stored_answers(self, path: Path) -> Mapping[str, str] | None:
        """One of the benchmark's own files: image, instruction and output.

        Raises:
            ValueError: for answers to other instructions.
        """
        lines = [one.value for one in read_json_records(path)]
        if not all(isinstance(line, dict) and "output" in line for line in lines):
            return None
        _check_same(path, lines, [one.value for one in read_json_records(self.files()[0])])
        return {str(number): line["output"] for number, line in enumerate(lines)}

    def _comparison(self, sample: Sample, answer: str) -> Comparison:
        others = {name: outputs[int(sample.id)]["output"] for name, outputs in self.others.items()}
        return Comparison(sample, {self.chosen["name"]: answer, **others})

    def _people(self, results: Sequence[Result]) -> dict[str, dict[str, Places]]:
        """Places by question, for each who ranked: people, or the judge."""
        if self.readings:
            return {"the judge": {one.sample.id: self.readings[one.sample.id][0] for one in results}}
        comparisons = [self._comparison(one.sample, one.prediction.answer) for one in results]
        return {str(path): dict(read_sheet(path, comparisons)) for path in self.sheets}

    def _worth(self, rankings: Sequence[Places]) -> float:
        last = len(self.systems) + 1
        return mean([(last - one[self.chosen["name"]]) / (last - 1) for one in rankings])

    def _notes(self, ranked: Mapping[str, Sequence[Places]]) -> list[str]:
        low, high = interval(ranked, self.chosen["name"])
        notes = [
            f"Place 1 is the best of {len(self.systems) + 1}; equal ranks share the mean of their places. "
            f"{len(ranked)} instructions are ranked; in 95 % of samples of as many the mean place is {low:.2f} to "
            f"{high:.2f}."
        ]
        if self.readings:
            notes.append("Ranked by a model: this is not the paper's metric, which is people's ranking.")
        elif (same := agreement(ranked)) is not None:
            notes.append(
                f"Two people put {100 * same:.0f} % of the pairs of answers that both order in the same order."
            )
        return notes


def _outputs(path: Path) -> list[Any]:
    if not path.is_file():
        raise ValueError(
            f"{path}: there are no stored answers of this system; --set systems= names those that there are"
        )
    return [one.value for one in read_json_records(path)]


def _check_same(path: Path, outputs: Sequence[Any], lines: Sequence[Any]) -> None:
    """Answers stand in the order of the instructions; a system without regions was given their other wording."""
    if len(outputs) != len(lines):
        raise ValueError(f"{path} has {len(outputs)} answers, and there are {len(lines)} instructions")
    for number, (output, line) in enumerate(zip(outputs, lines, strict=True), 1):
        if not isinstance(output, dict) or not isinstance(line, dict):
            raise ValueError(f"{path} line {number}, or that of instructions.jsonl, is no object")
        wordings = (line.get("instruction"), line.get("instruction_no_region"))
        if output.get("image") != line.get("image") or output.get("instruction") not in wordings:
            raise ValueError(f"{path} line {number} does not answer line {number} of instructions.jsonl")
        if not isinstance(output.get("output"), str):
            raise ValueError(f"{path} line {number} has no output that is a text")


def _read_order(reply: str, comparison: Comparison) -> dict[str, float]:
    letters = list(comparison.letters())
    said = [word for word in re.split(r"[,>\s]+", reply.strip().rstrip(".")) if word]
    if sorted(said) != letters:
        raise BadReply(f"the reply has to be the letters {', '.join(letters)}, each once, from the best to the worst")
    return comparison.by_system(places_of({letter: float(place) for place, letter in enumerate(said, 1)}))


def _content(sample: Sample, text: str, side: int) -> list[str | ImagePart]:
    from pvit_ext.evaluation.judge.images import image_of

    return [image_of(sample, side, "drawn"), text]
