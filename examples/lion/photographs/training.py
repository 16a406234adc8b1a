"""The photographs' runs, for an arm with tags of its style."""

from __future__ import annotations

from pathlib import Path

from examples.lion.arms import Arm
from examples.photographs import training
from examples.photographs.settings import Settings
from examples.quickstart.arms import Flags


class Trainer(training.Trainer):
    """See :class:`examples.photographs.training.Trainer`.

    Args:
        images: folder that records are relative to.
        settings: rates and sizes.
        seed: of the runs.
        arm: whose tags the model reads.
    """

    def __init__(self, images: Path, settings: Settings, seed: int, arm: Arm) -> None:
        super().__init__(images, settings, seed)
        self.arm = arm

    def _run(self, model: Path, data: Path, output: Path, own: Flags) -> None:
        tags: Flags = {"region_lion_tags": self.arm.tags} if self.arm.tags else {}
        super()._run(model, data, output, own | tags)
