"""Flags that a host keeps in different groups, and that do not go together."""

from __future__ import annotations

from typing import Any

from pvit_ext.training.stages import NO_LEARNING


def check_pairs(model: Any, training: Any) -> None:
    """Raise ValueError for flags of which one takes the other's effect away.

    Args:
        model: :class:`~pvit_ext.training.arguments.ModelFlags` with the host's.
        training: :class:`~pvit_ext.training.arguments.TrainingFlags` with the host's.
    """
    if training.lora_enable and _set("tune_mm_mlp_adapter", model):
        raise ValueError(
            f"--lora_enable True with --tune_mm_mlp_adapter True, which trains mm_projector and freezes all else: "
            f"{NO_LEARNING}; drop one of them (mm_projector trains beside an adapter without the flag)"
        )


def _set(name: str, *groups: Any) -> bool:
    """Whether a flag that some hosts have, in one group or the other, is given and true."""
    return any(getattr(group, name, None) for group in groups)
