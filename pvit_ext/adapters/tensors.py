"""Which tensors of a model are its adapter's: those that are new after peft has wrapped it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from torch import Tensor, nn

_NAMES = "adapter_names"


def wrap(model: Any, config: Any) -> Any:
    """Wrap a model by peft, and note the names of its adapter's tensors.

    Args:
        model: base model.
        config: of peft.
    """
    from peft import get_peft_model

    before = [tensor for _, tensor in state_of(model)]  # held: an id means nothing once its tensor is freed
    wrapped = get_peft_model(model, config)
    setattr(wrapped, _NAMES, frozenset(chain(*new_names(wrapped, before))))
    return wrapped


def new_names(model: nn.Module, before: list[Tensor]) -> list[list[str]]:
    """The names of each tensor that is new in a model: layers may share one.

    Args:
        model: after the change.
        before: its tensors before.
    """
    known, names = {id(tensor) for tensor in before}, dict[int, list[str]]()
    for name, tensor in state_of(model):
        if id(tensor) not in known:
            names.setdefault(id(tensor), []).append(name)
    return list(names.values())


def plain_name(name: str) -> str:
    """A tensor's name in the model without adapters: peft puts a layer's own tensors below ``base_layer``."""
    return name.replace(".base_layer.", ".")


def adapter_names(model: Any) -> frozenset[str]:
    """The names of a model's adapter tensors: parameters, and buffers that a checkpoint keeps.

    For a model that LLaVA's own ``train()`` wrapped, peft's layers name them.
    """
    found = getattr(model, _NAMES, None)
    return _names_in_layers(model) if found is None else found


def adapter_state(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The adapter's tensors by name."""
    names = adapter_names(model)
    return ((name, tensor) for name, tensor in state_of(model) if name in names)


def adapter_parameters(model: Any) -> list[nn.Parameter]:
    """The adapter's parameters, each once."""
    names = adapter_names(model)
    return [parameter for name, parameter in model.named_parameters() if name in names]


def state_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors of ``state_dict()`` by name; parameters stay parameters, which ZeRO-3 has to gather."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        start = f"{prefix}." if prefix else ""
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            yield start + name, parameter
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            if name not in module._non_persistent_buffers_set:
                yield start + name, buffer


def plain_names(model: nn.Module) -> dict[str, str]:
    """The names of ``state_dict()`` by those that the base's tensors have without an adapter on their layer."""
    return {plain_name(name): name for name, _ in state_of(model)}


def _names_in_layers(model: nn.Module) -> frozenset[str]:
    from peft.tuners.lora import LoraLayer

    # peft 0.4 does not list the parts of its layers, and later ones leave DoRA's out
    known = {"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"}
    parts = {
        f"{prefix}.{name}."
        for prefix, module in model.named_modules()
        if isinstance(module, LoraLayer)
        for name in known.union(getattr(module, "adapter_layer_names", ()))
    }
    return frozenset(name for name, _ in state_of(model) if any(name.startswith(part) for part in parts))
