"""One seed of the experiment: the shared start, then arm after arm; what is done is kept."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from examples.lion.arms import ARMS
from examples.lion.asking import ask_arm
from examples.lion.base import Base
from examples.lion.settings import Settings
from examples.lion.training import Conversations, Trainer, write_images
from examples.quickstart.phases import Phases
from examples.quickstart.towers import Scenes
from examples.quickstart.world import make_scenes

_OTHER_SCENES = 1000
"""Added to the seed of scenes that settings are chosen on: of the training handwriting and photographs, but new."""


class Experiment:
    """What all seeds share, and the arms of each.

    Args:
        output: everything goes there.
        settings: sizes and rates.
        develop: ask about new scenes of the training handwriting, not about held-out ones.
    """

    def __init__(self, output: Path, settings: Settings, develop: bool = False) -> None:
        self.output, self.settings, self.develop = output, settings, develop

    @cached_property
    def asked(self) -> Scenes:
        """Scenes that are asked about, the same for every arm and seed."""
        if self.develop:
            return make_scenes("train", self.settings.test_scenes, self.settings.seed + _OTHER_SCENES)
        return make_scenes("test", self.settings.test_scenes, self.settings.seed)

    @cached_property
    def base(self) -> Base:
        """The parts that all seeds share."""
        return Base(self.output / "base", self.settings)

    def build(self) -> dict[str, Any]:
        """Make the base and the training images, if they are not there."""
        made = self.base.build()
        if not self.images.is_dir():
            write_images(self._train, self.images)
        phases = Phases(self.output / "start", self.settings.start())
        phases.run("region projector", self._align)
        return {**made, "seconds": {**made["seconds"], **phases.seconds}}

    def run(self, name: str, seed: int) -> dict[str, Any]:
        """Scores and answers of an arm, and the seconds that it took.

        Args:
            name: of the arm.
            seed: of the conversations, of new parts and of the order.
        """
        phases = Phases(self.output / f"seed-{seed}" / name, self._described(seed))
        last = Path(phases.run(f"seed {seed}: {name}", partial(self._train_arm, name, seed)))
        what = "questions about new training scenes" if self.develop else "questions"
        ask = partial(ask_arm, ARMS[name], last, self.asked, self.settings)
        found: dict[str, Any] = phases.run(f"seed {seed}: {name} {what}", ask)
        return {**found, "seconds": dict(phases.seconds)}

    @property
    def images(self) -> Path:
        """Folder of the training scenes."""
        return self.output / "images"

    @property
    def _train(self) -> Scenes:
        return self.base.scenes[: self.settings.train_scenes]

    @property
    def _aligned(self) -> Path:
        """The region modules that all arms and seeds start from."""
        return self.output / "start" / "aligned"

    def _trainer(self, seed: int) -> Trainer:
        return Trainer(self.output / "base", self.images.resolve(), self.settings, seed)

    def _align(self) -> None:
        seed = self.settings.seed
        self._trainer(seed).align(Conversations(self._train, self.settings, seed).align(), self._aligned)

    def _train_arm(self, name: str, seed: int) -> str:
        conversations = Conversations(self._train, self.settings, seed)
        folder = self.output / f"seed-{seed}" / name
        return str(self._trainer(seed).arm(ARMS[name], conversations, self._aligned, folder))

    def _described(self, seed: int) -> dict[str, Any]:
        """What results depend on, as plain JSON."""
        return {**asdict(self.settings), "seed of the run": seed}
