"""One seed: data, language model, stage 0 and the region projector, then arm after arm; what is done is kept."""

from __future__ import annotations

import json
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from examples.lion.arms import ARMS
from examples.lion.photographs import asking
from examples.lion.photographs.settings import Settings
from examples.lion.photographs.tagging import Tagging, true_tags, write_real_tags
from examples.lion.photographs.training import Trainer
from examples.lion.stages import Record, deal, for_arm
from examples.lion.tasks import IMAGE, REGION
from examples.photographs import arms as shown
from examples.photographs import data, experiment
from examples.photographs.alone import alone
from examples.photographs.sources import class_names
from examples.quickstart.phases import Phases
from pvit_ext.files import fingerprint

_SHOWN = shown.ARMS[shown.MAIN]
"""How all arms are shown regions."""


class LionExperiment(experiment.Experiment):
    """One seed.

    Args:
        root: a data set in YOLO's layout.
        output: everything goes there; the language model, converted data and the tagger's tags are shared by seeds.
        settings: steps and rates.
        seed: of what is drawn, and of the runs.
        tagger: ``FILE.onnx`` of a detector of the data's classes.
        develop: ask about a held-out part of the training photographs, not about validation.
        limit: ask about the first N photographs only; None for all.
    """

    settings: Settings

    def __init__(
        self,
        root: Path,
        output: Path,
        settings: Settings,
        seed: int,
        tagger: Path,
        develop: bool = False,
        limit: int | None = None,
    ) -> None:
        super().__init__(root, output, settings, seed, "object", develop, limit)
        self.tagger = tagger

    @property
    def described(self) -> dict[str, Any]:
        """What results depend on, as plain JSON."""
        return {**super().described, "tagger": self.tagger.name, "tagger fingerprint": self._tagger_mark}

    @property
    def source(self) -> dict[str, str]:
        """What the converted data is made of, as plain JSON."""
        return {**super().source, "classes": ", ".join(self.classes)}

    def base(self) -> dict[str, float]:
        """What all arms build on; seconds of each phase."""
        seconds = super().base()
        phases = Phases(self._aligned.parent, self.described)
        run = partial(self.trainer.align, _SHOWN, self._base, self._records("regions_align"), self._aligned)
        phases.run("region projector", run)
        return {**seconds, **phases.seconds}

    def measure(self, name: str) -> dict[str, Any]:
        """Scores and answers of an arm, and the seconds that it took.

        Args:
            name: of the arm.
        """
        arm, folder, last = ARMS[name], self.folder / name, self._aligned
        phases, trainer = Phases(folder, self.described), Trainer(self.root, self.settings, self.seed)
        for number, (stage, records) in enumerate(deal(self.conversations(name), arm, self.seed), 1):
            output = folder / f"stage{number}"
            run = partial(trainer.stage, arm, stage, records, self._base, last, output)
            phases.run(f"seed {self.seed}: {name} stage {number}", run)
            last = output
        ask = partial(asking.ask_arm, arm, last, self.root, self.questions_asked, self.tagging, self.settings)
        found: dict[str, Any] = phases.run(f"seed {self.seed}: {name} questions", ask)
        return {**found, "seconds": dict(phases.seconds)}

    def conversations(self, name: str) -> dict[str, list[Record]]:
        """What an arm trains on by task: as many that name all kinds on a photograph as of regions.

        Args:
            name: of the arm; all see the same conversations.
        """
        settings, seed, arm = self.settings, 10 * self.seed, ARMS[name]
        each = settings.finetune_steps * settings.batch // 2
        drawn = {
            IMAGE: data.tag_records(self._labelled_fit, self.wording, each, seed + 2),
            REGION: data.region_records(self.fit, self.wording, each, seed + 3, settings.evenness),
        }
        return {
            task: [for_arm(one, arm, self.tagging.of(one["image"], "real")) for one in records]
            for task, records in drawn.items()
        }

    @property
    def tags_file(self) -> Path:
        """The tags of this very tagger on these very photographs."""
        name = f"{self.tagger.stem}-{self._tagger_mark}-{self._contents}-{self.settings.threshold}.json"
        return self.shared / name

    @cached_property
    def _tagger_mark(self) -> str:
        return fingerprint(self.tagger)

    @cached_property
    def classes(self) -> list[str]:
        """All that a photograph may be tagged with."""
        return class_names(self.root)

    @property
    def quality(self) -> dict[str, float]:
        """Precision and recall of the tagger on the photographs that are asked about."""
        return self.tagging.quality([one.image for one in self._labelled_asked])

    @property
    def without_a_model(self) -> dict[str, dict[str, float]]:
        """What arms have to be above, by task."""
        return asking.without_a_model(self.questions_asked, self.tagging)

    @cached_property
    def questions_asked(self) -> list[asking.Question]:
        """The same for every arm and seed."""
        return asking.held_out_questions(self._labelled_asked, self.kinds, self.wording, self.settings.regions)

    @cached_property
    def tagging(self) -> Tagging:
        """Tags of all photographs; the tagger runs once for all seeds."""
        true = true_tags([one for part in ("train", "val") for one in self._labelled(part)])
        file = self.tags_file
        with alone(self.shared):
            if not file.is_file():
                write_real_tags(self.tagger, self.classes, self.settings.threshold, self.root, sorted(true), file)
        return Tagging(true, json.loads(file.read_text(encoding="utf-8")), self.classes)

    def _labelled(self, part: str) -> list[data.Photograph]:
        """Photographs with the boxes of all kinds, rare ones too; those without a box are left out."""
        return [one for one in data.read_photographs(self.shared / f"{part}.jsonl") if one.kinds]

    @property
    def _labelled_asked(self) -> list[data.Photograph]:
        return self._labelled("dev" if self.develop else "val")[: self.limit]

    @property
    def _labelled_fit(self) -> list[data.Photograph]:
        return self._labelled("fit" if self.develop else "train")

    @property
    def _base(self) -> Path:
        """The model of stage 0, which no arm changes."""
        return self.folder / "base"

    @property
    def _aligned(self) -> Path:
        """The region modules that all arms start from."""
        return self.folder / "regions" / "aligned"

    def _write_records(self) -> None:
        """Stage 0 names what is on a photograph, the region projector's run what is in a region."""
        settings, wording, batch, seed = self.settings, self.wording, self.settings.batch, 10 * self.seed
        named = data.tag_records(self._labelled_fit, wording, settings.tags_steps * batch, seed)
        data.write_records(self._records("tags"), named)
        pointed = data.region_records(self.fit, wording, settings.align_steps * batch, seed + 1, settings.evenness)
        data.write_records(self._records("regions_align"), pointed)
