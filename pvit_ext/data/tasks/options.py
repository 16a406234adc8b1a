"""How records are written, whatever the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pvit_ext.data.tasks.box_text import BoxText

BOXED, MOVED = "regions written as boxes", "boxes moved"
"""What regions are counted as that ``boxes`` and ``box_jitter`` changed."""


@dataclass(frozen=True)
class TaskOptions:
    """How records are written.

    Args:
        format: name of the format, the first part of a record's id.
        seed: chooses among templates, captions and whatever else a task chooses from.
        turns: questions in one record; an image with more has several records. 0 for no limit.
        boxes: write each region as the box around it, where it has one.
        keep_source: keep what the source says under ``source``.
        negatives: also ask about what is not there.
        box_jitter: move each side of a box by up to this part of its extent, 0 to below 0.5.
        box_text: how boxes are written in an answer.
    """

    format: str
    seed: int = 0
    turns: int = 10
    boxes: bool = False
    keep_source: bool = True
    negatives: bool = False
    box_jitter: float = 0.0
    box_text: BoxText = BoxText.FRACTIONS

    def __post_init__(self) -> None:
        if not 0 <= self.box_jitter < 0.5:
            raise ValueError(f"--box-jitter {self.box_jitter}: a part of a box's extent, from 0 to below 0.5")
        if self.turns < 0:
            raise ValueError(f"--turns is 0 or more, got {self.turns}")

    def idle(self, counts: Mapping[str, int]) -> list[str]:
        """Which options changed nothing, a sentence each.

        Args:
            counts: of a conversion, by what was counted.
        """
        boxes = self.boxes and not counts.get(BOXED)
        moved = self.box_jitter and not counts.get(MOVED)
        return [
            *(["--boxes changed nothing: no region is a mask or an outline"] if boxes else []),
            *([f"--box-jitter {self.box_jitter} moved nothing: no region is a plain box"] if moved else []),
        ]
