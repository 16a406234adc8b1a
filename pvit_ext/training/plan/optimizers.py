"""How many bytes an optimizer keeps for a tensor that trains."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

_MOMENTS = {
    "adamw_torch": 2, "adamw_torch_fused": 2, "adamw_apex_fused": 2, "adamw_hf": 2, "adagrad": 1, "rmsprop": 1,
}  # fmt: skip
"""Name of ``--optim`` -> tensors like the trained one, of its dtype."""
_FLOAT32 = {"paged_adamw_32bit": 2, "lion_32bit": 1, "paged_lion_32bit": 1}
"""The same, always float32."""
_FEW_BITS = {"adamw_bnb_8bit": 2, "adamw_8bit": 2, "paged_adamw_8bit": 2, "lion_8bit": 1, "paged_lion_8bit": 1}
"""The same in 8 bits, with a scale for each 256; bitsandbytes keeps tensors below 4096 elements in float32."""
_OF_DEEPSPEED = {"adam": "adamw_torch", "adamw": "adamw_torch", "adagrad": "adagrad", "lion": "lion_32bit"}
"""Type of the optimizer in a config of DeepSpeed -> what takes as much."""
KNOWN = ("adafactor", "sgd", *_MOMENTS, *_FLOAT32, *_FEW_BITS)


def name_of(training: Any, deepspeed: dict[str, Any] | None) -> str:
    """The optimizer of a run.

    Args:
        training: its flags.
        deepspeed: config of DeepSpeed, whose own optimizer counts.

    Raises:
        ValueError: for one whose memory is not known.
    """
    if "optimizer" in (deepspeed or {}):
        found = str(deepspeed["optimizer"].get("type"))  # type: ignore[index]
        name = _OF_DEEPSPEED.get(found.lower(), found)
    else:
        name = str(getattr(training.optim, "value", training.optim))
    if name not in KNOWN:
        raise ValueError(f"--optim {name}: its memory is not known; known: {', '.join(KNOWN)}")
    if name == "sgd" and "momentum" in str(training.optim_args or ""):
        return "rmsprop"  # one tensor of the dtype too
    return name


def state_bytes(name: str, shape: Sequence[int], itemsize: int) -> float:
    """Bytes that an optimizer keeps for a tensor.

    Args:
        name: one of :data:`KNOWN`.
        shape: of the tensor; one axis where DeepSpeed lays all tensors end to end.
        itemsize: bytes of an element.
    """
    elements = math.prod(shape)
    if name == "adafactor":
        factored = elements // shape[-1] + elements // shape[-2] if len(shape) > 1 else elements
        return 4.0 * factored
    if name in _FLOAT32:
        return 4.0 * _FLOAT32[name] * elements
    if name in _FEW_BITS:
        return _FEW_BITS[name] * elements * (1 + 4 / 256 if elements >= 4096 else 4)
    return float(_MOMENTS.get(name, 0) * itemsize * elements)
