"""Which adapters a batch takes: said once around the language model's forward, and read beside each feed-forward layer.

A block that gradient checkpointing runs again during the backward pass takes the route of its own forward, whatever
ran in between: the checkpointing function of the model keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

_MIX: ContextVar[Tensor | None] = ContextVar("mix", default=None)
_CHECKPOINT = "_gradient_checkpointing_func"


def routed(mix: Tensor | None) -> AbstractContextManager[None]:
    """Say which adapters the language model takes within the block.

    Args:
        mix: (B, T), weight of each task's gates for each sample; None for a model without adapters, where nothing is
            said: ``torch.compile`` cannot look into a context variable.
    """
    return nullcontext() if mix is None else _saying(mix)


@contextmanager
def _saying(mix: Tensor) -> Iterator[None]:
    token = _MIX.set(mix)
    try:
        yield
    finally:
        _MIX.reset(token)


def current() -> Tensor:
    """What :func:`routed` said, (B, T).

    Raises:
        ValueError: when nobody did.
    """
    if (mix := _MIX.get()) is None:
        raise ValueError(
            "the language model was called directly, and its adapters do not know the tasks of the samples: call the "
            "model around it (tasks=...). So do blocks that FSDP's wrapper runs again: use gradient_checkpointing"
        )
    return mix


@dataclass(frozen=True)
class KeepingRoute:
    """A checkpointing function, whose recomputation takes the route of the forward.

    Args:
        checkpoint: ``torch.utils.checkpoint.checkpoint`` with its options.
    """

    checkpoint: Callable[..., Any]

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a function by the checkpointing function."""
        mix = _MIX.get()

        def run(again: Tensor | None, *rest: Any, **keywords: Any) -> Any:
            with routed(again):
                return function(*rest, **keywords)

        return self.checkpoint(run, mix, *args, **kwargs)  # an argument: reentrant checkpointing gives it its gradient


def keep_routes(model: nn.Module) -> None:
    """Let a model's gradient checkpointing keep routes; call it again whenever that was enabled anew."""
    for module in model.modules():
        found = vars(module).get(_CHECKPOINT)
        if found is not None and not isinstance(found, KeepingRoute):
            setattr(module, _CHECKPOINT, KeepingRoute(found))
