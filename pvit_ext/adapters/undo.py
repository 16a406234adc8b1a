"""Putting a model, and its processor, back as they were if a change to them breaks off."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def undone_on_failure(model: nn.Module) -> Iterator[None]:
    """Put all modules of a model, and its config, back as they were if the block fails.

    Neither peft's own removal does this: it differs between versions, and a failure halfway leaves it without a start.
    Modules, parameters, settings and hooks come back; values that were changed in place do not.

    Args:
        model: that the block changes.
    """
    objects: list[Any] = [*model.modules()]
    if (config := getattr(model, "config", None)) is not None:
        nested = [value for value in vars(config).values() if hasattr(value, "to_diff_dict")]
        objects += [config, *nested]
    before = [(one, type(one), _copied(vars(one))) for one in objects]
    learning = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    except BaseException:
        for one, kind, values in before:
            one.__class__ = kind
            _restore(vars(one), values)
        for parameter, learns in learning:
            parameter.requires_grad_(learns)
        raise


@contextmanager
def processor_undone_on_failure(processor: Any) -> Iterator[None]:
    """Put a processor, and the tokenizer in it, back as they were if the block fails.

    Args:
        processor: that the block may give regions, with or without a tokenizer; None for none.
    """
    tokenizer = getattr(processor, "tokenizer", None)
    # a tokenizer takes a token in place and gives none back: what stands in it comes from a copy
    sources = [(processor, processor), (tokenizer, copy.deepcopy(tokenizer))]
    before = [(one, type(one), dict(vars(source))) for one, source in sources if one is not None]
    try:
        yield
    except BaseException:
        for one, kind, values in before:
            one.__class__ = kind
            vars(one).clear()
            vars(one).update(values)
        raise


def _copied(values: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Each value, and a copy of it if it can be changed in place."""
    kinds = (dict, list, set)
    return {name: (value, value.copy() if isinstance(value, kinds) else None) for name, value in values.items()}


def _restore(values: dict[str, Any], before: dict[str, tuple[Any, Any]]) -> None:
    values.clear()
    for name, (value, copied) in before.items():
        if isinstance(value, list):
            value[:] = copied
        elif copied is not None:
            value.clear()
            value.update(copied)
        values[name] = value
