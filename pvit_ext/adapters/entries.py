"""Whether each entry of an adapter's config means a layer: peft takes what it finds, and is silent about the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from pvit_ext.adapters.refusals import tuner_of


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


def unmatched(wanted: Any, names: Sequence[str]) -> list[str]:
    """The entries that mean no layer of these names."""
    if isinstance(wanted, str):
        return [] if any(matches(wanted, name) for name in names) else [repr(wanted)]
    return [one for one in sorted(wanted) if not any(matches([one], name) for name in names)]


def shown(wanted: Any) -> str:
    """Entries for a message."""
    return repr(wanted) if isinstance(wanted, str) else ", ".join(sorted(wanted))


def check_targets(model: Any, wanted: Any, leaves: Sequence[str]) -> None:
    """Refuse entries of ``target_modules`` that mean none of the language model's layers.

    Args:
        model: of either host.
        wanted: the entries.
        leaves: names of the layers.

    Raises:
        ValueError: with the names that there are.
    """
    if not wanted:
        raise ValueError("target_modules names no layer: give some, or leave it out for all linear layers")
    if not (idle := unmatched(wanted, leaves)):
        return
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    heads = [name for name, module in model.named_modules() if module is head and head is not None]
    what = "the language model has no such layer"
    if any(matches(wanted if isinstance(wanted, str) else idle, name) for name in heads):
        what = f"the head ({heads[0]}) never gets an adapter, only layers below it do"
    known = _last_parts(leaves)
    raise ValueError(f"target_modules {', '.join(idle)}: {what}; it has {known}")


def check_excluded(model: Any, config: Any, chosen: Sequence[str]) -> None:
    """Refuse entries of ``exclude_modules`` that mean no layer of the whole model, towers and head included.

    Args:
        model: of either host.
        config: of peft.
        chosen: names of the layers that would get an adapter.

    Raises:
        ValueError: with the names that could be excluded.
    """
    wanted = getattr(config, "exclude_modules", None)
    leaves = [name for name, module in model.named_modules() if not any(module.children())]
    if wanted and (idle := unmatched(wanted, leaves)):
        known = _last_parts(chosen)
        raise ValueError(f"exclude_modules {', '.join(idle)}: there is no such layer to leave out; there are {known}")


def check_parameters(model: Any, config: Any) -> list[str]:
    """Refuse entries of ``target_parameters`` that mean no parameter, and fields that have no effect on them.

    Args:
        model: of either host.
        config: of peft.

    Returns:
        Names of the parameters that are meant.

    Raises:
        ValueError: with the names that there are.
    """
    if not (wanted := getattr(config, "target_parameters", None)):
        return []
    names = [name for name, _ in model.named_parameters()]
    if idle := unmatched(wanted, names):
        known = ", ".join(sorted({".".join(name.split(".")[-2:]) for name in names if ".layers." in name}))
        raise ValueError(f"target_parameters {', '.join(idle)}: the model has no such parameter; it has {known}")
    alone = [name for name in ("exclude_modules", "layers_to_transform") if getattr(config, name, None)]
    if alone and not config.target_modules:
        raise ValueError(f"{alone[0]} is for target_modules, and only target_parameters are given: name those you want")
    return [name for name in names if matches(wanted, name)]


def check_patterns(config: Any, chosen: Sequence[str]) -> None:
    """Refuse a key of ``rank_pattern`` and the like that decides for no layer.

    Args:
        config: of peft.
        chosen: names of the layers with an adapter.

    Raises:
        ValueError: with the names of the layers.
    """
    to_the_end = tuner_of(config) != "OSF"  # which looks for a part of a name
    for field, values in vars(config).items():
        if not (field.endswith("_pattern") and isinstance(values, dict)):
            continue
        rules = {key: re.compile(rf"(.*\.)?({key})$" if to_the_end else f".*({key})") for key in values}
        used = {next((key for key, rule in rules.items() if rule.match(name)), None) for name in chosen}
        if idle := [key for key in rules if key not in used]:
            known = _last_parts(chosen)
            raise ValueError(
                f"{field} {', '.join(idle)}: no layer takes its value from there (the first key that fits a name "
                f"decides); the layers with an adapter are {known}"
            )


def check_feed_forward(config: Any, chosen: Sequence[str]) -> None:
    """Refuse entries of IA3's ``feedforward_modules`` that mean no layer with an adapter.

    Args:
        config: of peft.
        chosen: names of the layers with an adapter.

    Raises:
        ValueError: with the names of the layers.
    """
    wanted = getattr(config, "feedforward_modules", None)
    if wanted and (idle := unmatched(wanted, chosen)):
        known = _last_parts(chosen)
        raise ValueError(
            f"feedforward_modules {', '.join(idle)}: no such layer gets an adapter; those that do are {known}"
        )


def check_block_diagonal(config: Any, chosen: Sequence[str]) -> None:
    """Refuse entries of ``use_bdlora`` that mean no layer with an adapter: peft would train plain LoRA.

    Args:
        config: of peft.
        chosen: names of the layers with an adapter.

    Raises:
        ValueError: with the names of the layers.
    """
    if not (given := getattr(config, "use_bdlora", None)):
        return
    known = _last_parts(chosen)
    lists = {field: getattr(given, field) or [] for field in ("target_modules_bd_a", "target_modules_bd_b")}
    if not any(lists.values()):
        raise ValueError(f"use_bdlora names no layer: give {' or '.join(lists)}, lists of names; there are {known}")
    for field, wanted in lists.items():
        if idle := [one for one in wanted if not any(one in name for name in chosen)]:  # peft's own rule
            raise ValueError(f"use_bdlora: {field} {', '.join(idle)}: no layer has that in its name; there are {known}")


def check_kinds(config: Any, chosen: Mapping[str, nn.Module]) -> None:
    """Refuse layers on which a tuner for layers of another kind would train something else than it is for.

    Args:
        config: of peft.
        chosen: layers with an adapter.

    Raises:
        ValueError: with the layers.
    """
    tuner = tuner_of(config)
    if tuner == "TRAINABLE_TOKENS":
        what = "embeddings, and other layers have no rows of tokens"
        wrong = [name for name, module in chosen.items() if not isinstance(module, nn.Embedding)]
    elif tuner == "LN_TUNING":
        what = "norms, and of other layers it would train a whole copy"
        wrong = [name for name, module in chosen.items() if isinstance(module, (nn.Linear, nn.Embedding))]
    else:
        return
    if wrong:
        raise ValueError(f"target_modules of {tuner} are {what}: leave out {_last_parts(wrong)}")


def check_blocks(config: Any, chosen: Mapping[str, nn.Module]) -> None:
    """Refuse sizes of OFT's blocks that do not divide a layer's width: peft would take another one.

    Args:
        config: of peft.
        chosen: layers with an adapter.

    Raises:
        ValueError: with the layer and its width.
    """
    size = getattr(config, "oft_block_size", 0) or (hasattr(config, "oft_block_size") and config.r)
    for name, module in chosen.items():
        width = getattr(module, "in_features", None)
        if size and width and width % size:
            field = "oft_block_size" if config.oft_block_size else "r"
            raise ValueError(
                f"{field} {size} of OFT does not divide the width {width} of {name}, and peft would take another: "
                f"give a divisor of {width}, or leave such layers out by target_modules"
            )


def _last_parts(names: Sequence[str]) -> str:
    """Last parts of names, each once, for a message."""
    return ", ".join(sorted({name.rpartition(".")[2] for name in names}))
