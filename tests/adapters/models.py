"""A tiny LLaVA with regions, and adapters on it that have learned something."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pvit_ext.adapters.lora import add_lora
from tests.checkpoints import inputs


def arguments(**given: Any) -> Any:
    """LLaVA's flags and ours, as a run parses them."""
    plain = {"lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_bias": "none"}
    return SimpleNamespace(**{**plain, "lora_method": None, "lora_options": None, **given})


def learned(model: Any, **given: Any) -> Any:
    """A copy of a model in peft's wrapper, each of whose adapter's parameters has moved."""
    wrapped = add_lora(copy.deepcopy(model), arguments(**given))
    generator = torch.Generator().manual_seed(3)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return wrapped


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(**inputs()).logits
    return found
