"""A model of transformers to train: which of its parts learn."""

from __future__ import annotations

from typing import Any

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
        with_language_model: freeze that too.
        with_connectors: freeze these too.
    """
    model.requires_grad_(not with_language_model)
    family_of(model.config).tower(model.base_model).requires_grad_(False)
    for module in connectors(model):
        module.requires_grad_(not with_connectors)
