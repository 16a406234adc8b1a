"""A model of transformers to train: which of its parts learn, and where LoRA goes."""

from __future__ import annotations

import re
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


def language_layers(model: Any) -> str:
    """A pattern for exactly the linear layers of the language model's blocks; peft matches whole names against it."""
    inside = model.base_model.language_model
    of_language = {id(module) for module in inside.modules()}
    names = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and id(module) in of_language
    ]
    return "|".join(sorted({re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", re.escape(name)) for name in names}))
