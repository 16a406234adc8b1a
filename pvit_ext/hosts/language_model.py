"""A model's language model as a checkpoint of its own, for engines that read its prompts as embeddings."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def text_model(model_class: Any, config: Any, tensors: Mapping[str, Tensor]) -> Any:
    """A causal language model with these tensors, which it shares.

    Args:
        model_class: of transformers.
        config: of it.
        tensors: by their names in it; those of other modules may be there too.

    Raises:
        ValueError: when some are missing, as of a quantised model, or its own modules have more, such as adapters.
    """
    with torch.device("meta"):
        found = model_class(config)
    wanted = found.state_dict()
    tied = {"lm_head.weight"} if getattr(config, "tie_word_embeddings", False) else set()
    own = {name: tensors[name] for name in wanted if name in tensors}
    modules = {*map(_module_of, wanted)}
    more = sorted(name for name in {*tensors} - {*wanted} if _module_of(name) in modules)
    if more:
        raise ValueError(
            f"the language model has {len(more)} tensors that a {model_class.__name__} has no place for, such as "
            f"{more[0]}: it answers with them, and would answer otherwise without"
        )
    missing = sorted({*wanted} - {*own} - tied)
    wrong = sorted(name for name, one in own.items() if one.shape != wanted[name].shape or not one.is_floating_point())
    if missing or wrong:
        raise ValueError(
            f"the language model cannot be written as a {model_class.__name__}: {len(missing)} tensors are missing "
            f"{missing[:3]}, {len(wrong)} are of another form {wrong[:3]}; load the model without quantisation"
        )
    _take(found, own)
    found.tie_weights()
    _fill_buffers(found, model_class, config, next(iter(own.values())).device)
    return found.eval()


def _module_of(name: str) -> str:
    """The part of the language model that a tensor belongs to, such as ``model.layers``."""
    return ".".join(name.split(".")[:2])


def _take(found: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors in place of those on the meta device; ``load_state_dict(assign=True)`` came with torch 2.1."""
    for name, tensor in tensors.items():
        parent, _, own = name.rpartition(".")
        module = found.get_submodule(parent)
        if own in module._parameters:
            module._parameters[own] = torch.nn.Parameter(tensor, requires_grad=False)
        else:
            module._buffers[own] = tensor


def _fill_buffers(found: Any, model_class: Any, config: Any, device: torch.device) -> None:
    """Make what is in no state dict, such as the frequencies of rotary positions; layers alike have them alike."""
    if not any(one.is_meta for one in found.buffers()):
        return
    small = copy.deepcopy(config)
    small.vocab_size = 8
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, name, None)
    made = dict(model_class(small).named_buffers())
    for name, one in list(found.named_buffers()):
        if one.is_meta:
            parent, _, own = name.rpartition(".")
            found.get_submodule(parent).register_buffer(own, made[name].to(device), persistent=False)
