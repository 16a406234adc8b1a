"""Frozen towers stay in evaluation mode, whoever calls ``train()``: batch norms would move, dropout would be on."""

from __future__ import annotations

from typing import Any

from torch import nn

_CLASSES: dict[type, type] = {}


class FrozenInEval(nn.Module):
    """Stands before a tower's class in its bases.

    ``train()`` of the tower, or of what holds it, leaves it in evaluation mode while it is frozen. A loop over all
    modules reaches those inside it; they are switched back before the tower runs.
    """

    @property
    def can_train(self) -> bool:
        """Whether anything of it trains."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def train(self, mode: bool = True) -> Any:
        """Switch to training mode, unless frozen."""
        return super().train(mode and self.can_train)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it, in evaluation mode if it is frozen."""
        if any(module.training for module in self.modules()) and not self.can_train:
            self.eval()
        return super().__call__(*args, **kwargs)


def keep_frozen_in_eval(tower: nn.Module | None) -> None:
    """Give one tower of any class the behaviour of :class:`FrozenInEval`; others of its class keep theirs.

    Its class keeps its name and module, by which transformers and caches know it.

    Args:
        tower: None is passed over.
    """
    if tower is not None and not isinstance(tower, FrozenInEval):
        tower.__class__ = _class_of(type(tower))


def _class_of(stock: Any) -> Any:
    if stock not in _CLASSES:

        def __reduce_ex__(self: Any, protocol: Any) -> Any:
            """Copies and pickles name the stock class: this one is found nowhere."""
            _, _, *rest = super(made, self).__reduce_ex__(protocol)
            return _new, (stock,), *rest

        own = {"__module__": stock.__module__, "__qualname__": stock.__qualname__, "__doc__": stock.__doc__}
        made: Any = type(stock.__name__, (FrozenInEval, stock), {**own, "__reduce_ex__": __reduce_ex__})
        _CLASSES.setdefault(stock, made)
    return _CLASSES[stock]


def _new(stock: type) -> Any:
    """An empty tower, for pickle and deepcopy, which fill it."""
    made = _class_of(stock)
    return made.__new__(made)
