"""A tiny LLaVA with regions, and adapters on it that have learned something."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pvit_ext.adapters.lora import add_lora
from pvit_ext.training.lora_checkpoint import save_adapter
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


def save_result(wrapped: Any, folder: Path, base: Path | str) -> Path:
    """Write what peft's wrapper has trained on a base, as a run does."""
    wrapped.name_or_path = str(base)
    save_adapter(wrapped, str(folder), True)
    return folder


def with_encoder_of(model: Any, other: Any) -> Any:
    """Another start of a model, with its frozen encoder: that has no file here, and each start draws another."""
    other.region_module.region_encoder.load_state_dict(model.region_module.region_encoder.state_dict())
    return other


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(**inputs()).logits
    return found
