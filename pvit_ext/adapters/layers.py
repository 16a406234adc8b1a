"""Which layers get an adapter: the language model's, never those of the vision tower, projectors or region modules."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from torch import nn

from pvit_ext.adapters.lion.feed_forward import mixtures_in
from pvit_ext.adapters.lion.parts import PARTS

_OURS = ("vision_tower", "mm_projector", "region_encoder", "region_projector", *PARTS)
_BY_ITSELF = ("TRAINABLE_TOKENS",)
"""Tuners of peft that find the layers they change by themselves."""


def find_all_linear_names(model: Any) -> str:
    """A pattern for exactly the linear layers of the language model's blocks; peft matches it against full names.

    LLaVA's function of this name collects last parts of names (``q_proj``), which towers and encoders have as well.

    Args:
        model: of either host, before peft wraps it.
    """
    return _pattern([name for name, module in _modules(model) if isinstance(module, nn.Linear)])


def choose_layers(model: Any, config: Any) -> None:
    """Name in a config of peft all linear layers of the language model, or those that the config asks for.

    peft alone would match last parts of names in the vision tower and the region modules as well.

    Args:
        model: of either host, before peft wraps it.
        config: of peft; its ``target_modules`` become a pattern of full names.

    Raises:
        ValueError: when it asks for layers that the language model does not have, with the names that it has.
    """
    wanted = getattr(config, "target_modules", None)
    if wanted is None and (config.peft_type in _BY_ITSELF or getattr(config, "target_parameters", None)):
        return
    within = _within(config)
    if wanted is None or wanted == "all-linear":
        chosen = [name for name, module in _modules(model) if isinstance(module, nn.Linear) and within(name)]
    else:
        leaves = [name for name, module in _modules(model) if name and not any(module.children())]
        chosen = [name for name in leaves if matches(wanted, name) and within(name)]
        if not chosen:
            known = ", ".join(sorted({name.rpartition(".")[2] for name in leaves}))
            raise ValueError(f"target_modules {_shown(wanted)}: the language model has no such layer; it has {known}")
    if not chosen:
        raise ValueError(f"layers_to_transform {config.layers_to_transform}: the language model has no such block")
    config.target_modules = _pattern(chosen, [name for name, _ in _modules(model)])
    for name in ("layers_to_transform", "layers_pattern"):  # applied above; peft refuses them beside a pattern
        if hasattr(config, name):
            setattr(config, name, None)


def seeing_modules(model: Any) -> Iterator[nn.Module]:
    """All beside the language model of a model of either host: tower, projectors, region modules and LION's parts."""
    root = model.base_model
    parts = (getattr(root, name, None) for name in _OURS)
    if getattr(root, "language_model", None) is not None:
        parts = (module for name, module in root.named_children() if name != "language_model")
    return chain((module for part in parts for module in _listed(part)), mixtures_in(model))


def names_of_layers(model: Any) -> set[str]:
    """Names of modules that hold a weight, or nothing else; one with an adapter on it counts without its parts.

    Args:
        model: of either host, with adapters or without.
    """
    adapted, layers = "", set()
    for name, module in model.named_modules():
        if adapted and name.startswith(adapted):
            continue
        if has_adapter(module):
            adapted = f"{name}."
        if has_adapter(module) or hasattr(module, "weight") or not any(module.children()):
            layers.add(name)
    return layers


def has_adapter(module: nn.Module) -> bool:
    """Whether a module is a layer of peft's with an adapter; transformers' models have a method of this name."""
    return hasattr(module, "base_layer") or isinstance(getattr(module, "active_adapter", None), (str, list))


def adapted_layers(model: Any, config: Any) -> list[str]:
    """The names of the language model's layers that a saved config of peft means.

    Args:
        model: of either host, with adapters or without.
        config: of peft, with ``target_modules``.
    """
    wanted, unwanted, within = config.target_modules, getattr(config, "exclude_modules", None), _within(config)
    known = names_of_layers(model)
    found = [(name, module) for name, module in _modules(model) if name in known and matches(wanted, name)]
    if wanted == "all-linear":
        found = [(name, one) for name, one in found if isinstance(getattr(one, "base_layer", one), nn.Linear)]
    return [name for name, _ in found if within(name) and not (unwanted and matches(unwanted, name))]


def _modules(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The language model's modules by their names in the model."""
    root, prefix = model.base_model, model.base_model_prefix
    if (nested := getattr(root, "language_model", None)) is not None:  # transformers' own models
        root, prefix = nested, f"{prefix}.language_model"
    parts = [part for name in _OURS for part in _listed(getattr(root, name, None))] + mixtures_in(root)
    seeing = {id(module) for part in parts for module in part.modules()}
    named = ((f"{prefix}.{name}", module) for name, module in root.named_modules() if id(module) not in seeing)
    return ((name.rstrip("."), module) for name, module in named)


def _listed(part: Any) -> list[nn.Module]:
    parts = part if isinstance(part, list) else [part]  # LLaVA wraps its tower in a list under FSDP
    return [one for one in parts if one is not None]


def _pattern(names: list[str], others: Sequence[str] = ()) -> str:
    """A pattern of names for any block number; of the exact names, if that would match others too."""
    exact = {re.escape(name) for name in names}
    pattern = "|".join(sorted({re.sub(r"\\\.\d+\\\.", r"\\.\\d+\\.", name) for name in exact}))
    if all(name in names for name in others if re.fullmatch(pattern, name)):
        return pattern
    return "|".join(sorted(exact))


def matches(wanted: Any, name: str) -> bool:
    """Whether a layer of this name is asked for, by peft's own rule.

    Args:
        wanted: a pattern of full names, or a list of last parts of names.
        name: full name of a layer.
    """
    if wanted == "all-linear":
        return True
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in wanted)


def _within(config: Any) -> Any:
    """A test of names: is the layer in a block of ``layers_to_transform``? By peft's own rule too."""
    blocks = getattr(config, "layers_to_transform", None)
    if blocks is None or blocks == []:
        return lambda name: True
    numbers = {blocks} if isinstance(blocks, int) else set(blocks)
    given = getattr(config, "layers_pattern", None) or r"[^.]*"
    lists = "|".join([given] if isinstance(given, str) else given)
    block = re.compile(rf"(?:^|.*?\.)(?:{lists})\.(\d+)\.")

    def within(name: str) -> bool:
        found = block.match(name)
        return found is not None and int(found[1]) in numbers

    return within


def _shown(wanted: Any) -> str:
    return repr(wanted) if isinstance(wanted, str) else ", ".join(sorted(wanted))
