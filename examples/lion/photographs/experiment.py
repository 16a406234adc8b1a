"""One seed: data, language model, stage 0 and the region projector, then arm after arm; what is done is kept."""

from __future__ import annotations

import json
import random
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from examples.lion.photographs import asking, coco
from examples.lion.photographs.arms import ARMS
from examples.lion.photographs.settings import Settings
from examples.lion.photographs.tagging import Tagging, true_tags, write_real_tags
from examples.lion.photographs.training import Trainer
from examples.photographs import arms as shown
from examples.photographs import data, experiment
from examples.quickstart.phases import Phases
from pvit_ext.files import fingerprint

_SHOWN = shown.ARMS[shown.MAIN]
"""How all arms are shown regions."""


class TagExperiment(experiment.Experiment):
    """One seed.

    Args:
        root: of :func:`~examples.lion.photographs.coco.lay_out`.
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
        data = str((self.root / "images").resolve().parent)
        tagger = {"tagger": self.tagger.name, "tagger fingerprint": self._tagger_mark}
        return {**super().described, "photographs": data, **tagger}

    def base(self) -> dict[str, float]:
        """What all arms build on; seconds of each phase."""
        seconds = super().base()
        phases = Phases(self.folder / "start", self.described)
        run = partial(self.trainer.align, _SHOWN, self.folder / "base", self._records("regions_align"), self._aligned)
        phases.run("region projector", run)
        return {**seconds, **phases.seconds}

    def measure(self, name: str) -> dict[str, Any]:
        """Scores and answers of an arm, and the seconds that it took.

        Args:
            name: of the arm.
        """
        arm, folder = ARMS[name], self.folder / name
        phases = Phases(folder, self.described)
        trainer = Trainer(self.root, self.settings, self.seed, arm)
        start = self.folder / "base", self._records("tagged" if arm.tags else "untagged")
        last = folder / "stage2"
        phases.run(f"seed {self.seed}: {name}", partial(trainer.finetune, _SHOWN, *start, last, self._aligned))
        ask = partial(asking.ask_arm, arm, last, self.root, self.questions_asked, self.tagging, self.settings)
        found: dict[str, Any] = phases.run(f"seed {self.seed}: {name} questions", ask)
        return {**found, "seconds": dict(phases.seconds)}

    @property
    def tags_file(self) -> Path:
        """The tags of this very tagger."""
        return self.shared / f"{self.tagger.stem}-{self._tagger_mark}-{self.settings.threshold}.json"

    @cached_property
    def _tagger_mark(self) -> str:
        return fingerprint(self.tagger)

    @property
    def quality(self) -> dict[str, float]:
        """Precision and recall of the tagger on the photographs that are asked about."""
        return self.tagging.quality([one.image for one in self._labelled_asked])

    @cached_property
    def questions_asked(self) -> list[asking.Question]:
        """The same for every arm and seed."""
        return asking.held_out_questions(self._labelled_asked, self.kinds, self.wording, self.settings.regions)

    @cached_property
    def tagging(self) -> Tagging:
        """Tags of all photographs; the tagger runs once for all seeds."""
        true = true_tags([one for part in ("train", "val") for one in self._labelled(part)])
        classes, file = coco.class_names(self.root), self.tags_file
        if not file.is_file():
            write_real_tags(self.tagger, classes, self.settings.threshold, self.root, sorted(true), file)
        return Tagging(true, json.loads(file.read_text(encoding="utf-8")), classes)

    def _labelled(self, part: str) -> list[data.Photograph]:
        """Photographs with the boxes of all kinds, rare ones too; those without a box are left out."""
        return [one for one in data.read_photographs(self.shared / f"{part}.jsonl") if one.kinds]

    @property
    def _labelled_asked(self) -> list[data.Photograph]:
        return self._labelled("dev" if self.develop else "val")[: self.limit]

    @property
    def _aligned(self) -> Path:
        """The region modules that all arms start from."""
        return self.folder / "start" / "aligned"

    def _write_records(self) -> None:
        """Stage 0 names what is on a photograph; an arm sees as many of these conversations as of regions."""
        settings, wording, batch = self.settings, self.wording, self.settings.batch
        whole, seed = self._labelled("fit" if self.develop else "train"), 10 * self.seed
        regions = partial(data.region_records, self.fit, wording, evenness=settings.evenness)
        data.write_records(self._records("tags"), data.tag_records(whole, wording, settings.tags_steps * batch, seed))
        aligned = regions(count=settings.align_steps * batch, seed=seed + 1)
        data.write_records(self._records("regions_align"), aligned)
        each = settings.finetune_steps * batch // 2
        mixed = [*data.tag_records(whole, wording, each, seed + 2), *regions(count=each, seed=seed + 3)]
        random.Random(seed).shuffle(mixed)
        data.write_records(self._records("untagged"), mixed)
        tagged = [{**record, "tags": self.tagging.of(record["image"], "real")} for record in mixed]
        data.write_records(self._records("tagged"), tagged)
