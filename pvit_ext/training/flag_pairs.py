"""Flags that have no effect because of another flag."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Any

from pvit_ext.training.stages import NO_LEARNING, trains_parts_alone

logger = logging.getLogger(__name__)


def changed_flags(arguments: Any, *names: str) -> list[str]:
    """Which of these flags have another value than their default.

    Args:
        arguments: a dataclass.
        names: of its fields.
    """
    defaults = {item.name: item.default for item in fields(arguments)}
    return [name for name in names if getattr(arguments, name) != defaults[name]]


def check_pairs(model: Any, training: Any) -> None:
    """Raise ValueError for flags of which one takes the other's effect away; those of a recipe are named in the log.

    Args:
        model: :class:`~pvit_ext.training.arguments.ModelFlags` with the host's.
        training: :class:`~pvit_ext.training.arguments.TrainingFlags` with the host's.
    """
    tuned, frozen = _set("tune_mm_mlp_adapter", model), _set("freeze_mm_mlp_adapter", model, training)
    rate = training.mm_projector_lr
    if training.lora_enable and tuned:
        raise ValueError(
            f"--lora_enable True with --tune_mm_mlp_adapter True, which trains mm_projector and freezes all else: "
            f"{NO_LEARNING}; drop one of them (mm_projector trains beside an adapter without the flag)"
        )
    if tuned and frozen:
        raise ValueError(
            "--tune_mm_mlp_adapter True with --freeze_mm_mlp_adapter True: the one trains mm_projector alone, the "
            "other freezes it; drop one of them"
        )
    if trains_parts_alone(training.stage) and (tuned or rate is not None):
        given = "--tune_mm_mlp_adapter True" if tuned else f"--mm_projector_lr {rate}"
        raise ValueError(
            f"{given}: --stage {training.stage} trains region modules only, and mm_projector would not learn; drop the "
            "flag, or train with --stage finetune"
        )
    if frozen and rate is not None:  # the recipe of LoRA gives one
        logger.warning(
            "without effect, because --freeze_mm_mlp_adapter True freezes mm_projector: --mm_projector_lr %s", rate
        )


def _set(name: str, *groups: Any) -> bool:
    """Whether a flag that some hosts have, in one group or the other, is given and true."""
    return any(getattr(group, name, None) for group in groups)
