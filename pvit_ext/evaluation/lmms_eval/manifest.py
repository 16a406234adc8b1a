"""What lmms-eval finds by the entry-point group ``lmms_eval.models``."""

from __future__ import annotations

from typing import Any

MODEL = "pvit_ext"
"""Its name for ``--model``."""


def manifest() -> Any:
    """The model, for lmms-eval's registry."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(MODEL, simple_class_path="pvit_ext.evaluation.lmms_eval.model.PvitExt")
