"""DeepSpeed's config as ``--deepspeed`` names it, checked where a plan reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pvit_ext.files import read_json

_OBJECTS = ("zero_optimization", "bf16", "fp16")
_OF_ZERO = ("offload_optimizer", "offload_param")
_NUMBERS = ("reduce_bucket_size", "stage3_param_persistence_threshold", "stage3_max_live_parameters")
_STAGES = (0, 1, 2, 3)


def read_deepspeed(value: str | None) -> dict[str, Any] | None:
    """The config that a flag names; None without it.

    Args:
        value: of ``--deepspeed``, a file or JSON.

    Raises:
        ValueError: for what is no config, with the entry that is wrong.
    """
    if not value:
        return None
    found = read_json(Path(value)) if Path(value).is_file() else _parse(value)
    if not isinstance(found, dict):
        raise ValueError(f"--deepspeed {value}: give DeepSpeed's config, a JSON object or a file with one")
    for name in _OBJECTS:
        _check_object(value, found, name)
    zero = found.get("zero_optimization", {})
    for name in _OF_ZERO:
        _check_object(value, zero, name, none=True)
    stage = zero.get("stage", 0)
    if isinstance(stage, bool) or stage not in _STAGES:
        raise ValueError(f"--deepspeed {value}: stage {json.dumps(stage)}; ZeRO has the stages 0, 1, 2 and 3")
    batch = found.get("train_batch_size", "auto")
    for name, number in {"train_batch_size": batch, **{name: zero.get(name, "auto") for name in _NUMBERS}}.items():
        if number != "auto" and (isinstance(number, bool) or not isinstance(number, (int, float)) or number < 0):
            raise ValueError(f'--deepspeed {value}: {name} {json.dumps(number)}; give a number or "auto"')
    return found


def _parse(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise ValueError(f"--deepspeed {value}: no such file, and no JSON: {error}") from error


def _check_object(value: str, values: dict[str, Any], name: str, none: bool = False) -> None:
    given = values.get(name, {})
    if not (isinstance(given, dict) or (none and given is None)):
        raise ValueError(f"--deepspeed {value}: {name} {json.dumps(given)}; give a JSON object")
