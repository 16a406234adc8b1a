"""Checkpoints of a LoRA run: what trains beside the adapter, saved with it and loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pvit_ext.adapters.lora import NON_LORA_FILE, load_whole_weights
from pvit_ext.tokens.serialization import save_region_modules


def save_beside_adapter(model: Any, folder: str, write: bool) -> None:
    """Complete a checkpoint that has the adapter alone: with it, what trains beside it, in LLaVA's format for the end.

    Args:
        model: peft's wrapper around a region-enabled LLaVA.
        folder: of the checkpoint.
        write: False on ranks that only take part in gathering.
    """
    from llava.train.train import get_peft_state_non_lora_maybe_zero_3

    save_region_modules(model, folder, model.name_or_path, write, adapter=True)
    state = get_peft_state_non_lora_maybe_zero_3(model.named_parameters())
    if write:
        torch.save(state, Path(folder, NON_LORA_FILE))


def load_beside_adapter(model: Any, folder: str) -> None:
    """Load what :func:`save_beside_adapter` wrote into the model that is training."""
    load_whole_weights(model, folder)
