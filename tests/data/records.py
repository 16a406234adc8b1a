"""Records and data files of the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pvit_ext.data.check import validate
from pvit_ext.data.records import RecordError, load_records
from pvit_ext.regions.region import Region


def record(number: int = 0, **changes: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": "<image>\nWhat is <region>?"}, {"from": "gpt", "value": "A dog."}]
    made = {"id": str(number), "image": "a.png", "conversations": turns, "regions": [[1, 2, 30, 15]]} | changes
    return {key: value for key, value in made.items() if value is not None}


def asked(text: str, answer: str = "A dog.") -> list[dict[str, str]]:
    return [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]


def write(folder: Path, content: Any, name: str = "train.json") -> Path:
    text = content if isinstance(content, str) else json.dumps(content, indent=1)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def problem(folder: Path, **changes: Any) -> str:
    path = write(folder, [record(**changes)])
    problems = validate(path, folder)
    assert len(problems) == 1
    with pytest.raises(RecordError) as raised:
        load_records(path, folder)
    assert raised.value.problems == problems
    assert str(raised.value) == problems[0]
    return problems[0]


# What is read


def corners(regions: list[Region]) -> list[Any]:
    return [(region.kind, region.normalized, region.points) for region in regions]


# Masks


def pixels() -> np.ndarray:
    mask = np.zeros((20, 40), bool)
    mask[3:7, 10:30], mask[0, 0] = True, True
    return mask


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """COCO's encoder, written from its definition: columns first, background first."""
    flat, counts, value = mask.T.ravel().tolist(), [], False
    while flat:
        length = next((i for i, item in enumerate(flat) if item != value), len(flat))
        counts.append(length)
        flat, value = flat[length:], not value
    return {"size": list(mask.shape), "counts": counts}
