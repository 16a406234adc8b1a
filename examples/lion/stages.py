"""The stages of an arm: which conversations each of them sees, and what it is told."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.lion.arms import MIXED, Arm, Stage
from examples.lion.tasks import IMAGE, TASKS
from examples.quickstart.arms import Flags

Record = dict[str, Any]


def for_arm(record: Record, arm: Arm, tags: Sequence[str]) -> Record:
    """A record with the tags of an arm that has any, and with its task where all records name one.

    Args:
        record: of any arm.
        arm: that sees it.
        tags: of the image.
    """
    shown: Record = {"tags": list(tags)} if arm.tags else {}
    return record | shown | ({"lion_task": arm.task} if arm.task else {})


def deal(drawn: Mapping[str, Sequence[Record]], arm: Arm, seed: int) -> list[tuple[Stage, list[Record]]]:
    """The records of each of an arm's stages, in random order.

    Args:
        drawn: by task, of which there are as many each.
        arm: whose stages see each of them once.
        seed: of the order.
    """
    parts, rng = {task: _cut(drawn[task], arm, task) for task in TASKS}, random.Random(f"order-{seed}")
    dealt = []
    for stage in arm.stages:
        tasks = TASKS if stage.data == MIXED else (stage.data,)
        records = [record for task in tasks for record in parts[task].pop(0)]
        rng.shuffle(records)
        dealt.append((stage, records))
    return dealt


def stage_flags(stage: Stage, before: Path, rate: float) -> Flags:
    """Flags of a stage.

    Args:
        stage: of an arm.
        before: region modules that it goes on from.
        rate: of learning.
    """
    no_gradient = stage.data == IMAGE  # a shared adapter's stages train the region projector too
    return {"stage": stage.flag, "region_modules": before, "learning_rate": rate, "allow_no_gradient": no_gradient}


def _cut(records: Sequence[Record], arm: Arm, task: str) -> list[list[Record]]:
    """Records for each stage that has this task; a stage of one task has twice as many as a mixed one."""
    shares = [stage.part * (1 if stage.data == MIXED else 2) for stage in arm.stages if stage.data in (task, MIXED)]
    ends = [round(sum(shares[: number + 1]) * len(records)) for number in range(len(shares))]
    return [list(records[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
