"""A model of transformers to train: which of its parts learn, and how it is filled with a checkpoint of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from pvit_ext.hosts.transformers.families import family_of

_CONNECTORS = ("multi_modal_projector", "merger", "deepstack_merger_list")


def connectors(model: Any) -> list[nn.Module]:
    """What takes the vision tower's features to the language model: modules beside the tower, or at its end (Qwen)."""
    inner = model.base_model
    tower = family_of(model.config).tower(inner)
    found = [getattr(part, name, None) for part in (inner, tower) for name in _CONNECTORS]
    return [module for module in found if isinstance(module, nn.Module)]


def freeze(model: Any, with_language_model: bool, with_connectors: bool) -> None:
    """Freeze the vision tower, and what else is not to learn.

    Args:
        model: of transformers, with regions.
        with_language_model: freeze the language model too.
        with_connectors: freeze the connectors too.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(
            not with_language_model and parameter.is_floating_point()
        )  # quantised ones are whole numbers
    family_of(model.config).tower(model.base_model).requires_grad_(False)
    for module in connectors(model):
        module.requires_grad_(not with_connectors)


def read_checkpoint(model: Any, folder: str) -> None:
    """Fill a model with a whole checkpoint that was saved of it, by the names that its class maps.

    A file's names are those of the hub. transformers' Trainer (seen in 5.23) looks them up in the model as they stand,
    finds no weight, only warns, and the run starts anew.

    Args:
        model: any of transformers', with regions or without.
        folder: of the checkpoint.
    """
    kinds = {parameter.dtype for parameter in model.parameters()}
    saved = type(model).from_pretrained(folder, dtype=kinds.pop() if len(kinds) == 1 else torch.float32)
    model.load_state_dict(saved.state_dict())
