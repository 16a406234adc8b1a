"""The photographs' runs, and those of an arm, which train LION's parts and the region projector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from examples.lion.arms import Arm, Stage
from examples.lion.photographs.settings import Settings
from examples.lion.stages import Record, stage_flags
from examples.photographs import data, training


class Trainer(training.Trainer):
    """See :class:`examples.photographs.training.Trainer`."""

    settings: Settings

    def stage(self, arm: Arm, stage: Stage, records: Sequence[Record], base: Path, before: Path, output: Path) -> None:
        """A stage of an arm; a stage that was cut off goes on.

        Args:
            arm: whose parts of LION the first of its stages adds.
            stage: of it.
            records: to pass over once.
            base: the model, which stays as it is.
            before: region modules that it goes on from.
            output: folder of its region modules.
        """
        file = output.with_suffix(".jsonl")
        data.write_records(file, records)
        parts = arm.flags(self.settings.width) if stage == arm.stages[0] else {}
        self._run(base, file, output, stage_flags(stage, before, self.settings.finetune_rate) | parts)
