"""One seed of the experiment: data, language model, stage 0, then arm after arm; what is done is kept."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from examples.photographs import asking, data
from examples.photographs.alone import alone
from examples.photographs.arms import ALIGNED, ARMS
from examples.photographs.fair import SEVERAL, measure_several_kinds
from examples.photographs.language import write_language_model
from examples.photographs.settings import Settings
from examples.photographs.sources import contents, write_parts
from examples.photographs.training import Trainer
from examples.quickstart.phases import Phases, has_run

_BASE, _LAST = "stage 0", "stage 2 questions"
_DEVELOP = "-develop"


class Experiment:
    """One seed.

    Args:
        root: the data set's folder, in YOLO's or Pascal VOC's layout.
        output: everything goes there; the language model and converted data are shared by seeds.
        settings: steps and rates.
        seed: of what is drawn, and of the runs.
        thing: what all kinds are, in questions.
        develop: ask about a held-out part of the training photographs, not about validation.
        limit: ask about the first N photographs only; None for all.
    """

    def __init__(
        self,
        root: Path,
        output: Path,
        settings: Settings,
        seed: int,
        thing: str,
        develop: bool = False,
        limit: int | None = None,
    ) -> None:
        self.root, self.shared = root.resolve(), output / "shared"
        self.folder = output / f"seed-{seed}{_DEVELOP if develop else ''}"
        self.settings, self.seed, self.thing = settings, seed, thing
        self.develop, self.limit = develop, limit
        self.trainer = Trainer(self.root, settings, seed)

    @property
    def described(self) -> dict[str, Any]:
        """What results depend on, as plain JSON."""
        own = {"seed": self.seed, "thing": self.thing, "develop": self.develop, "limit": self.limit}
        return {**asdict(self.settings), **own}

    @property
    def source(self) -> dict[str, str]:
        """What the converted data is made of, as plain JSON."""
        return {"data": str(self.root), "contents": self._contents}

    @cached_property
    def _contents(self) -> str:
        """Of the data set: its photographs and labels may change, and its folder keep its name."""
        return contents(self.root)

    @property
    def questions(self) -> Path:
        """One record for each box that is asked about."""
        return self._records("questions")

    def base(self) -> dict[str, float]:
        """Records, language model and stage 0, which all arms build on; seconds of each."""
        self._convert()
        phases = Phases(self.folder, {**self.described, **self.source})
        phases.run("records", self._write_records)
        phases.run("language model", self._write_language_model)
        phases.run(_BASE, partial(self.trainer.tags, self._language, self._records("tags"), self.folder / "base"))
        return phases.seconds

    def run(self, name: str) -> dict[str, dict[str, Any]]:
        """What ``pvit-ext eval own`` measured of an arm, by row of the table, with the seconds of each phase.

        Args:
            name: of an arm, or ``photograph``, ``probe`` or ``majority``.
        """
        phases = Phases(self.folder / name, self.described)
        found = self._run_arm(name, phases) if name in ARMS else self._run_answers(name, phases)
        seconds = dict(phases.seconds)
        return {
            row: {**values, SEVERAL: measure_several_kinds(self.asked, self.predictions(row)), "seconds": seconds}
            for row, values in found.items()
        }

    def predictions(self, row: str) -> Path:
        """The answers of a row of the table."""
        name = row.removesuffix(ALIGNED)
        if name not in ARMS:
            return self.folder / name / "eval" / asking.GIVEN
        return self.folder / name / ("eval-stage2" if row == name else "eval-stage1") / "predictions.jsonl"

    def has_finished(self, name: str) -> bool:
        """Whether an earlier run measured an arm."""
        return has_run(self.folder / name, f"{name} {_LAST}")

    @cached_property
    def kinds(self) -> list[str]:
        """The kinds that are asked about, sorted."""
        return data.usual_kinds(data.read_photographs(self.shared / "train.jsonl"))

    @cached_property
    def fit(self) -> list[data.Photograph]:
        """Photographs to train on."""
        return self._photographs("fit" if self.develop else "train")

    @cached_property
    def asked(self) -> list[data.Photograph]:
        """Photographs that are asked about."""
        return self._photographs("dev" if self.develop else "val")[: self.limit]

    @property
    def wording(self) -> data.Wording:
        """The wording of the questions."""
        return data.Wording(self.thing, self.kinds[-1])

    def _run_arm(self, name: str, phases: Phases) -> dict[str, dict[str, Any]]:
        arm, folder, base, found = ARMS[name], self.folder / name, self.folder / "base", {}
        dtype = self.settings.dtype
        asked = self.root, self.questions
        aligned = folder / "stage1" if arm.has_tokens else None
        if aligned:
            phases.run(
                f"{name} stage 1", partial(self.trainer.align, arm, base, self._records("regions_align"), aligned)
            )
            ask = partial(asking.ask_checkpoint, arm, aligned, *asked, folder / "eval-stage1", dtype)
            found[f"{name}{ALIGNED}"] = phases.run(f"{name} stage 1 questions", ask)
        records = self._records(f"{arm.records}_finetune" if aligned else f"{arm.records}_all")
        phases.run(f"{name} stage 2", partial(self.trainer.finetune, arm, base, records, folder / "stage2", aligned))
        ask = partial(asking.ask_checkpoint, arm, folder / "stage2", *asked, folder / "eval-stage2", dtype)
        found[name] = phases.run(f"{name} {_LAST}", ask)
        return found

    def _run_answers(self, name: str, phases: Phases) -> dict[str, dict[str, Any]]:
        """Rows without a language model."""
        if name in asking.PROBES:
            features = asking.PROBES[name]
            answers = phases.run(name, partial(asking.probe, self.root, self.fit, self.asked, self.seed, features))
        else:
            kinds = Counter(kind for photograph in self.asked for kind in photograph.kinds)
            answers = [kinds.most_common(1)[0][0]] * kinds.total()
        return {name: asking.score_answers(answers, self.root, self.questions, self.folder / name / "eval")}

    def _convert(self) -> None:
        with alone(self.shared):
            Phases(self.shared, self.source)  # refuses the records of other data
            write_parts(self.root, self.shared)
            if not (self.shared / "dev.jsonl").is_file():
                data.hold_out(self.shared / "train.jsonl", self.shared)

    def _photographs(self, part: str) -> list[data.Photograph]:
        return data.only(data.read_photographs(self.shared / f"{part}.jsonl"), self.kinds)

    def _records(self, name: str) -> Path:
        return self.folder / "records" / f"{name}.jsonl"

    @property
    def _language(self) -> Path:
        return self.shared / "smollm2"

    def _write_language_model(self) -> None:
        with alone(self.shared):
            if not self._language.is_dir():
                write_language_model(self._language)

    def _write_records(self) -> None:
        settings, fit, wording = self.settings, self.fit, self.wording
        sizes = {"align": settings.align_steps, "finetune": settings.finetune_steps}
        drawn = {}
        for number, (stage, steps) in enumerate(sizes.items(), 1):
            seed, count = 10 * self.seed + number, steps * settings.batch
            drawn[stage] = list(data.region_records(fit, wording, count, seed, settings.evenness))
        drawn["all"] = drawn["align"] + drawn["finetune"]
        for name, records in drawn.items():
            data.write_records(self._records(f"regions_{name}"), records)
            data.write_records(self._records(f"without_regions_{name}"), map(data.without_regions, records))
        tags = data.tag_records(fit, wording, settings.tags_steps * settings.batch, 10 * self.seed)
        data.write_records(self._records("tags"), tags)
        data.write_records(self.questions, data.question_records(self.asked, wording))


def finished_seeds(output: Path, develop: bool = False) -> list[int]:
    """Seeds of earlier runs in a folder whose stage 0 is done, in ascending order.

    Args:
        output: folder of the experiment.
        develop: of runs that asked about a part of the training photographs.
    """
    found = (
        re.fullmatch(r"seed-(\d+)" + (_DEVELOP if develop else ""), folder.name) for folder in output.glob("seed-*")
    )
    return sorted(int(one[1]) for one in found if one and has_run(output / one[0], _BASE))
