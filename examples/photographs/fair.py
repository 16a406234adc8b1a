"""Answers about photographs that show several kinds: there the photograph alone does not tell what a region holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from examples.photographs.answered import read_answered
from examples.photographs.data import Photograph

SEVERAL = "several kinds"
"""Name of what :func:`measure_several_kinds` gives, among the values of a row."""


def measure_several_kinds(photographs: Sequence[Photograph], predictions: Path) -> dict[str, Any]:
    """Accuracy and balanced accuracy on these photographs alone, and the number of questions about them.

    Args:
        photographs: that were asked about, in that order, box by box.
        predictions: of the evaluation.
    """
    right = defaultdict(list)
    for one in read_answered(photographs, predictions):
        if len(set(one.photograph.kinds)) > 1:
            right[one.kind].append(one.is_right)
    flat = [value for values in right.values() for value in values]
    if not flat:
        return {"samples": 0}
    return {"samples": len(flat), "accuracy": mean(flat), "balanced accuracy": mean(map(mean, right.values()))}
