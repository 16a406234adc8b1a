"""Which modules of a LLaVA keep their dtype when its language model is quantised."""

from __future__ import annotations

from typing import Any

_KEPT = ("vision_tower", "mm_projector", "region_encoder", "region_projector")


def unquantized(model_class: Any) -> list[str]:
    """Full names of vision tower, projectors and region modules, and the head's: transformers 5 matches from the start.

    Args:
        model_class: of LLaVA.
    """
    return [*(f"{model_class.base_model_prefix}.{name}" for name in _KEPT), "lm_head"]
