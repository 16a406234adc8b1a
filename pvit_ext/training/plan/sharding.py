"""How DeepSpeed, or nothing, spreads a run over GPUs: the settings that decide its memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

_ON_GPU = (None, "none")


@dataclass(frozen=True)
class Sharding:
    """The settings of a run.

    Args:
        gpus: all together.
        stage: of ZeRO; 0 where every GPU holds everything.
        dtype: in which DeepSpeed keeps the model; None without DeepSpeed, where each tensor keeps its own.
        offload_optimizer: optimizer states are in the machine's memory.
        offload_parameters: so are weights.
        bucket: elements of a buffer in which gradients are exchanged.
        buffers: how many of them there are.
        threshold: stage 3 keeps tensors of fewer elements on every GPU.
        live: elements that stage 3 may have gathered at a time.
    """

    gpus: int
    stage: int = 0
    dtype: torch.dtype | None = None
    offload_optimizer: bool = False
    offload_parameters: bool = False
    bucket: int = 0
    buffers: int = 1
    threshold: int = 0
    live: int = 0

    @classmethod
    def of(cls, deepspeed: dict[str, Any] | None, training: Any, hidden_size: int, gpus: int) -> Sharding:
        """The settings of DeepSpeed's config, in which transformers fills in each ``auto``.

        Args:
            deepspeed: its config, of :func:`~pvit_ext.training.plan.deepspeed.read_deepspeed`; None without it.
            training: flags of the run.
            hidden_size: width of the language model.
            gpus: all together.
        """
        if deepspeed is None:
            return cls(gpus)
        zero = deepspeed.get("zero_optimization", {})
        stage = int(zero.get("stage", 0))

        def number(name: str, default: float, auto: float = 0) -> int:
            found = zero.get(name, default)
            return int(auto if found == "auto" else found)

        return cls(
            gpus=gpus,
            stage=stage,
            dtype=_dtype(deepspeed, training),
            offload_optimizer=_offloads(zero, "optimizer"),
            offload_parameters=_offloads(zero, "param"),
            bucket=number("reduce_bucket_size", 5e8, hidden_size**2),
            buffers=2 if stage == 2 and zero.get("overlap_comm", False) else 1,
            threshold=number("stage3_param_persistence_threshold", 1e5, 10 * hidden_size),
            live=number("stage3_max_live_parameters", 1e9),
        )

    @property
    def itemsize(self) -> int:
        """Bytes of an element of DeepSpeed's model."""
        return 4 if self.dtype is None else torch.empty(0, dtype=self.dtype).element_size()


def _offloads(zero: dict[str, Any], what: str) -> bool:
    given = zero.get(f"offload_{what}") or {}
    return given.get("device") not in _ON_GPU or bool(zero.get("cpu_offload") and what == "optimizer")


def _dtype(deepspeed: dict[str, Any], training: Any) -> torch.dtype:
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        enabled = deepspeed.get(name, {}).get("enabled", False)
        if enabled is True or (enabled == "auto" and getattr(training, name)):
            return dtype
    return torch.float32
