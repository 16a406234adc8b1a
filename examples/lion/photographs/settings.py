"""Sizes and rates of the experiment; choose them on a part of the training photographs (``--develop``)."""

from __future__ import annotations

from dataclasses import dataclass

from examples.photographs import settings


@dataclass(frozen=True)
class Settings(settings.Settings):
    """Those of the photographs of chess pieces, with steps for this experiment.

    Args:
        finetune_steps, finetune_rate: of an arm, whatever its stages.
        width: of an adapter where two are routed; the one that is shared has twice as much.
        threshold: of the tagger's scores.
        regions: that are asked about on a photograph, at most.
        most_image, most_region: tokens of an answer.
    """

    tags_steps: int = 60
    align_steps: int = 80
    finetune_steps: int = 120
    finetune_rate: float = 1.5e-3
    width: int = 64
    threshold: float = 0.5
    regions: int = 2
    most_image: int = 40
    most_region: int = 8
