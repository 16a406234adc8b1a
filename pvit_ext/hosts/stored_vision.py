"""A model whose vision tower returns its earlier output for the images of a batch, and does not run.

Only the tower's own ``forward`` is replaced: everything around it, in the host's code and in ours, runs unchanged.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from pvit_ext.data.cache.vision import StoredVision
from pvit_ext.ops.hooks import own_hooks

STORED_IMAGES = "stored_images"
"""Key of a batch, and of a model's ``forward``: the number of each of its images, in order."""
TOWER_OUTPUT = "tower_output"
"""Key of a batch, and of a model's ``forward`` and ``generate``: what the vision tower returns for its images."""
_outputs: WeakKeyDictionary[nn.Module, dict[int, Any]] = WeakKeyDictionary()
"""By thread, of each module that returns one in some thread."""
_replacing = threading.Lock()


@contextmanager
def returning(
    module: nn.Module | None, stored: StoredVision | None, numbers: Sequence[int] | None, output: Any = None
) -> Iterator[None]:
    """Let a vision tower return earlier outputs for a batch's images inside the block.

    Args:
        module: the tower.
        stored: the run's cache of the tower, if it has one.
        numbers: numbers of the images in the cache; None without.
        output: for the images, where it is at hand; None without. The tower runs where both are None.
    """
    if module is None or (numbers is None and output is None):
        yield
        return
    if numbers is not None:
        if stored is None:
            raise ValueError("the batch names stored images, but the model has no store of them")
        output = stored.output(numbers, next(module.parameters()).device)
    with returning_output(module, output):
        yield


@contextmanager
def returning_output(module: nn.Module, output: Any) -> Iterator[None]:
    """Let a module return this inside the block, to this thread; its hooks run."""
    thread = threading.get_ident()
    with _replacing:
        by_thread = _outputs.setdefault(module, {})
        if not by_thread:
            own = module.__dict__.get("forward")  # accelerate puts one there
            module.forward = _forward_of(by_thread, module.forward, own)
        before = by_thread.get(thread)
        by_thread[thread] = output
    try:
        yield
    finally:
        with _replacing:
            del by_thread[thread]
            if before is not None:
                by_thread[thread] = before
            if not by_thread:
                own = module.__dict__.pop("forward").own
                if own is not None:
                    module.forward = own


def _forward_of(by_thread: dict[int, Any], stock: Any, own: Any) -> Any:
    """A ``forward`` that runs the stock one in threads that have no output; it keeps what stood in its place."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        found = by_thread.get(threading.get_ident())
        return stock(*args, **kwargs) if found is None else found

    forward.own = own  # type: ignore[attr-defined]
    return forward


@contextmanager
def noting_output(module: nn.Module) -> Iterator[list[Any]]:
    """Collect a module's outputs inside the block, copied shallowly: models change parts of an output in place."""
    found: list[Any] = []

    def note(_args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any) -> None:
        found.append(dict(output) if isinstance(output, Mapping) else output)

    with own_hooks([(module, note)]):
        yield found
