"""LoRA+: the matrix B of each adapter learns at a rate of its own (arXiv 2402.12354).

peft's helper also gives that rate to every tensor of one dimension, such as biases of the region projector, and ignores
``--mm_projector_lr``. Here the host's groups stay, and B moves into groups of its own.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from pvit_ext.adapters.options import LORA

_B = ("lora_B", "lora_embedding_B")


def check(ratio: float, tuner: str, optimizer: str, deepspeed: dict[str, Any]) -> None:
    """Refuse a ratio where it has no meaning.

    Args:
        ratio: ``--loraplus_lr_ratio``.
        tuner: peft's name of the adapter.
        optimizer: ``--optim``.
        deepspeed: DeepSpeed's config; empty without it.

    Raises:
        ValueError: with the setting that does not go with it.
    """
    given = f"--loraplus_lr_ratio {ratio:g}"
    if not (math.isfinite(ratio) and ratio > 0):
        raise ValueError(f"{given}: give B's learning rate as a multiple above 0; the paper takes 16")
    if tuner != LORA:
        raise ValueError(f"{given}: {tuner} has no matrices A and B; it goes with peft_type LORA")
    if not optimizer.removeprefix("paged_").startswith("adamw"):
        raise ValueError(f"{given} is a ratio of AdamW's rates, --optim {optimizer} has others: use adamw_torch")
    if "optimizer" in deepspeed:
        raise ValueError(f"{given}: the DeepSpeed config makes its own optimizer with one rate: drop its entry")


def give_rate(optimizer: torch.optim.Optimizer, model: Any, ratio: float) -> None:
    """Put the matrices B into groups of their own, at ``ratio`` times the rate of their old groups.

    Args:
        optimizer: with the host's groups, before its schedule is made.
        model: peft's wrapper.
        ratio: ``--loraplus_lr_ratio``.
    """
    parts = [part for module in model.modules() for name in _B if (part := getattr(module, name, None)) is not None]
    matrices = {id(parameter) for part in parts if hasattr(part, "parameters") for parameter in part.parameters()}
    split_groups(optimizer, matrices, lambda rate: rate * ratio)


def split_groups(optimizer: torch.optim.Optimizer, chosen: set[int], rate: Any) -> None:
    """Move parameters into groups of their own, which differ from their old groups in the learning rate only.

    Args:
        optimizer: before its schedule is made.
        chosen: ids of the parameters.
        rate: maps a group's learning rate to the new group's.
    """
    for group in list(optimizer.param_groups):
        own = [parameter for parameter in group["params"] if id(parameter) in chosen]
        if own:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
            options = {key: value for key, value in group.items() if key not in ("params", "initial_lr")}
            optimizer.add_param_group({**options, "params": own, "lr": rate(group["lr"])})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
