"""Which layers get an adapter: the language model's, never those of the vision tower, projectors or region modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

from torch import nn

from pvit_ext.adapters.entries import (
    check_block_diagonal,
    check_blocks,
    check_excluded,
    check_feed_forward,
    check_kinds,
    check_parameters,
    check_patterns,
    check_targets,
    matches,
    shown,
    unmatched,
)
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
        ValueError: when an entry of it means layers that the language model does not have, with the names that it has.
    """
    wanted = getattr(config, "target_modules", None)
    by_parameters = check_parameters(model, config)
    if not wanted and (config.peft_type in _BY_ITSELF or by_parameters):
        check_patterns(config, by_parameters)
        return
    every = dict(_modules(model))
    chosen = _chosen(model, config, every)
    check_excluded(model, config, chosen)
    kept = [name for name in chosen if not matches(getattr(config, "exclude_modules", None) or [], name)]
    if not kept:
        raise ValueError(f"exclude_modules {shown(config.exclude_modules)} leaves none of the layers that it is for")
    check_patterns(config, [*kept, *by_parameters])
    check_feed_forward(config, kept)
    check_block_diagonal(config, kept)
    modules = {name: every[name] for name in kept}
    check_kinds(config, modules)
    check_blocks(config, modules)
    config.target_modules = _pattern(chosen, list(every))
    for name in ("layers_to_transform", "layers_pattern"):  # applied above; peft refuses them beside a pattern
        if hasattr(config, name):
            setattr(config, name, None)


def _chosen(model: Any, config: Any, every: dict[str, nn.Module]) -> list[str]:
    """Names of the layers that a config asks for, each of whose entries has to mean some of them."""
    wanted = getattr(config, "target_modules", None)
    if wanted is None or wanted == "all-linear":
        asked = [name for name, module in every.items() if isinstance(module, nn.Linear)]
    else:
        asked = [name for name, module in every.items() if name and not any(module.children())]
        check_targets(model, wanted, asked)
        asked = [name for name in asked if matches(wanted, name)]
    numbers = _blocks(config)
    if numbers is None:
        return asked
    _check_lists(config, asked)
    block = _block_of(config)
    known = sorted({number for name in asked if (number := block(name)) is not None})
    if missing := sorted(numbers.difference(known)):
        raise ValueError(
            f"layers_to_transform {config.layers_to_transform}: the language model has no such block as "
            f"{', '.join(map(str, missing))} with layers that are asked for; it has {_ranges(known)}"
        )
    chosen = [name for name in asked if block(name) in numbers]
    if wanted not in (None, "all-linear") and (idle := unmatched(wanted, chosen)):
        raise ValueError(
            f"target_modules {', '.join(idle)}: no such layer is in the blocks of layers_to_transform "
            f"{config.layers_to_transform}"
        )
    return chosen


def _check_lists(config: Any, asked: Sequence[str]) -> None:
    """Refuse entries of ``layers_pattern`` that mean no list of blocks with layers that are asked for."""
    given = getattr(config, "layers_pattern", None) or []
    lists = [given] if isinstance(given, str) else given
    if idle := [one for one in lists if not any(_block_in(one).match(name) for name in asked)]:
        known = {found[1] for name in asked if (found := re.search(r"([^.]+)\.\d+\.", name)) is not None}
        raise ValueError(
            f"layers_pattern {', '.join(idle)}: the language model has no such list of blocks with layers that are "
            f"asked for; it has {', '.join(sorted(known)) or 'none'}"
        )


def seeing_modules(model: Any) -> Iterator[nn.Module]:
    """All beside the language model of a model of either host: tower, projectors, region modules and LION's parts."""
    root = model.base_model
    parts = [getattr(root, name, None) for name in _OURS]
    if getattr(root, "language_model", None) is not None:  # transformers' own models hold regions beside their root
        parts = [module for name, module in root.named_children() if name != "language_model"]
        parts += [getattr(model, name, None) for name in _OURS]
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
    wanted, unwanted = config.target_modules, getattr(config, "exclude_modules", None)
    numbers, block = _blocks(config), _block_of(config)
    known = names_of_layers(model)
    found = [(name, module) for name, module in _modules(model) if name in known and matches(wanted, name)]
    if wanted == "all-linear":
        found = [(name, one) for name, one in found if isinstance(getattr(one, "base_layer", one), nn.Linear)]
    names = [name for name, _ in found if numbers is None or block(name) in numbers]
    return [name for name in names if not (unwanted and matches(unwanted, name))]


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


def _blocks(config: Any) -> set[int] | None:
    """The numbers in ``layers_to_transform``; None for all."""
    blocks = getattr(config, "layers_to_transform", None)
    if blocks is None or blocks == []:
        return None
    return {blocks} if isinstance(blocks, int) else set(blocks)


def _block_of(config: Any) -> Callable[[str], int | None]:
    """The number of the block that a layer of a name is in, by peft's own rule; None outside of blocks."""
    given = getattr(config, "layers_pattern", None) or r"[^.]*"
    lists = "|".join([given] if isinstance(given, str) else given)
    block = _block_in(lists)

    def number(name: str) -> int | None:
        found = block.match(name)
        return int(found[1]) if found is not None else None

    return number


def _block_in(lists: str) -> re.Pattern[str]:
    """A rule for names of layers in a list of blocks, and the block's number."""
    return re.compile(rf"(?:^|.*?\.)(?:{lists})\.(\d+)\.")


def _ranges(numbers: list[int]) -> str:
    """The numbers of blocks, which follow on each other."""
    return f"blocks {numbers[0]} to {numbers[-1]}" if numbers else "none"
