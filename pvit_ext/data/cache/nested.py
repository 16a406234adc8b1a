"""What a module returns, as a list of tensors and the form that they had, which plain JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from torch import Tensor


class Output(SimpleNamespace):
    """Stands for an output whose parts have names, such as transformers' ``BaseModelOutput``."""

    def to_tuple(self) -> tuple[Any, ...]:
        """The parts that are not None; transformers 5.24 makes a tuple of a model's output, the tower's in it."""
        return tuple(part for part in vars(self).values() if part is not None)


def take_apart(value: Any) -> tuple[Any, list[Tensor]]:
    """Form and tensors of nested lists, tuples and mappings.

    Raises:
        TypeError: for anything else in them.
    """
    tensors: list[Tensor] = []
    return _form(value, tensors), tensors


def _form(value: Any, tensors: list[Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors.append(value)
        return len(tensors) - 1
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return [_form(part, tensors) for part in value]
    if isinstance(value, SimpleNamespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {name: _form(part, tensors) for name, part in value.items()}
    raise TypeError(f"it holds a {type(value).__name__}")


def put_together(form: Any, tensors: Sequence[Tensor]) -> Any:
    """Inverse of :func:`take_apart`; a mapping comes back as :class:`Output`, a tuple as a list."""
    if form is None:
        return None
    if isinstance(form, int):
        return tensors[form]
    if isinstance(form, list):
        return [put_together(part, tensors) for part in form]
    return Output(**{name: put_together(part, tensors) for name, part in form.items()})
