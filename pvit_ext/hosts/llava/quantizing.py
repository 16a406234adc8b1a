"""Which modules of a LLaVA keep their dtype when its language model is quantised."""

from __future__ import annotations

from typing import Any

from pvit_ext.adapters.lion.feed_forward import CHILD
from pvit_ext.adapters.lion.parts import PARTS

_KEPT = ("vision_tower", "mm_projector", "region_encoder", "region_projector")
_ADAPTERS = (CHILD, rf".*\.{CHILD}")
"""Transformers 4 looks for a part of a name, transformers 5 takes a pattern."""


def unquantized(model_class: Any) -> list[str]:
    """Names of vision tower, projectors, region modules and LION's parts, and the head's.

    They are full names, because transformers 5 matches from the start.

    Args:
        model_class: of LLaVA.
    """
    beside = (name for name in (*_KEPT, *PARTS) if name != CHILD)
    return [*(f"{model_class.base_model_prefix}.{name}" for name in beside), *_ADAPTERS, "lm_head"]
