"""Forward hooks for the time of one call, seen by that call alone though the module is shared between threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

Hook = Callable[[tuple[Any, ...], dict[str, Any], Any], Any]
"""(positional arguments, keyword arguments, output) -> another output, or None to keep it."""

_registering = threading.Lock()


@contextmanager
def own_hooks(hooks: Sequence[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """Run hooks behind modules inside the block, for passes of this thread only.

    Args:
        hooks: (module, hook); all are removed at the end of the block.
    """
    handles = [_register(module, hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            with _registering:
                handle.remove()


def _register(module: nn.Module, hook: Hook) -> Any:
    thread = threading.get_ident()

    def in_own_thread(_module: Any, args: Any, *rest: Any) -> Any:
        # Another thread that meets the hook while it is removed calls it without keyword arguments.
        return hook(args, *rest) if threading.get_ident() == thread else None

    with _registering:  # torch counts its handles without a lock: two of one number would overwrite each other
        return module.register_forward_hook(in_own_thread, with_kwargs=True)
