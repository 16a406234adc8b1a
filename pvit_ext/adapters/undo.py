"""Putting a model back as it was if a change to its modules breaks off."""

from __future__ import annotations

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
        objects += [
            config,
            *(value for value in vars(config).values() if hasattr(value, "to_diff_dict")),
        ]  # nested ones
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
