"""Which modules of a LLaVA keep their dtype when its language model is quantised."""

from __future__ import annotations

from typing import Any

_KEPT = ("vision_tower", "mm_projector", "region_encoder", "region_projector")


def unquantized(model_class: Any) -> list[str]:
    """Names of the modules that see, in full, and of the head: transformers 5 matches them from the start of a name.

    Args:
        model_class: of LLaVA.
    """
    return [*(f"{model_class.base_model_prefix}.{name}" for name in _KEPT), "lm_head"]
