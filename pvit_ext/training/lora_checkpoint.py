"""What a LoRA run writes: its adapter, and what trains beside it, which is loaded again on resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pvit_ext.adapters.lora import NON_LORA_FILE, load_non_lora_weights
from pvit_ext.adapters.tensors import adapter_names, adapter_state, plain_name
from pvit_ext.distributed import cpu_copies
from pvit_ext.files import atomic_write
from pvit_ext.tokens.serialization import save_region_modules


def save_adapter(model: Any, folder: str, write: bool) -> None:
    """Write a result in LLaVA's format; until the end, the region modules mark it as incomplete.

    Args:
        model: peft's wrapper.
        folder: of the result.
        write: False on ranks that only take part in gathering.
    """
    _save_regions(model, folder, write)
    adapter = cpu_copies(adapter_state(model))
    if write:
        model.config.save_pretrained(folder)
        model.save_pretrained(folder, state_dict=adapter)
    _save_others(model, folder, write)


def save_beside_adapter(model: Any, folder: str, write: bool) -> None:
    """Add config and what trains beside the adapter to a checkpoint that has it alone, in the format of a result.

    Args:
        model: peft's wrapper around a model with regions.
        folder: of the checkpoint.
        write: False on ranks that only take part in gathering.
    """
    _save_regions(model, folder, write)
    if write:
        model.config.save_pretrained(folder)  # with the settings of the run, which differ from its base's
    _save_others(model, folder, write)


def _save_regions(model: Any, folder: str, write: bool) -> None:
    """Write the region modules; they, and older ones, count as incomplete until :func:`_save_others`."""
    if write:
        Path(folder, NON_LORA_FILE).unlink(missing_ok=True)
    save_region_modules(model, folder, model.name_or_path, write, adapter=True)


def _save_others(model: Any, folder: str, write: bool) -> None:
    adapter = adapter_names(model)
    trained = [(name, one) for name, one in model.named_parameters() if name not in adapter and one.requires_grad]
    others = cpu_copies((plain_name(name), one) for name, one in trained)  # by names that LLaVA finds in the base
    if write:
        with atomic_write(Path(folder, NON_LORA_FILE)) as temporary:
            torch.save(others, temporary)


def load_beside_adapter(model: Any, folder: str) -> None:
    """Load what :func:`save_beside_adapter` wrote into the model that is training."""
    load_non_lora_weights(model, folder)
