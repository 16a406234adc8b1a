"""Sizes and rates of the experiment; choose them on new scenes of the training handwriting (``--develop``)."""

from __future__ import annotations

from dataclasses import dataclass

from examples.quickstart.__main__ import Settings as Quickstart


@dataclass(frozen=True)
class Settings(Quickstart):
    """The quickstart's sizes, and those of LION's parts; steps are optimizer steps of ``batch`` conversations.

    Args:
        batch: conversations a step.
        align_steps: of the region projector alone; all arms and seeds start from it.
        arm_steps: of an arm, whatever its stages.
        align_rate, arm_rate: learning rates.
        width: of an adapter where two are routed; the one that is shared has twice as much.
        most: tokens of an answer.
    """

    tower_scenes: int = 2000
    test_scenes: int = 80
    language_steps: int = 400
    clip_steps: int = 450
    base_steps: int = 350
    batch: int = 8
    align_steps: int = 150
    arm_steps: int = 100
    align_rate: float = 3e-3
    arm_rate: float = 8e-3
    width: int = 32
    most: int = 16

    def base(self) -> dict[str, int]:
        """What the base is made of, as plain JSON."""
        own = ("seed", "tower_scenes", "train_scenes", "language_steps", "clip_steps", "base_steps")
        return {name: getattr(self, name) for name in own}

    def start(self) -> dict[str, float]:
        """What the start of all arms is made of, as plain JSON."""
        own = ("batch", "align_steps", "align_rate")
        return {**self.base(), **{name: getattr(self, name) for name in own}}
