"""A model whose frozen vision tower returns its cached output for the images of a batch.

Only the tower's own ``forward`` is replaced: everything around it, in the host's code and in ours, runs unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from pvit_ext.data.cache.vision import StoredVision
from pvit_ext.ops.hooks import own_hooks

STORED_IMAGES = "stored_images"
"""Key of a batch, and of a model's ``forward``: the number of each of its images, in order."""


@contextmanager
def returning(module: nn.Module | None, stored: StoredVision | None, numbers: Sequence[int] | None) -> Iterator[None]:
    """Let a vision tower return the stored outputs of a batch's images inside the block.

    Args:
        module: the tower.
        stored: the run's cache of the tower, if it has one.
        numbers: numbers of the images in the cache; None to run the tower.
    """
    if numbers is None or module is None:
        yield
        return
    if stored is None:
        raise ValueError("the batch names stored images, but the model has no store of them")
    with returning_output(module, stored.output(numbers, next(module.parameters()).device)):
        yield


@contextmanager
def returning_output(module: nn.Module, output: Any) -> Iterator[None]:
    """Let a module return this inside the block; its hooks run."""
    own = module.__dict__.get("forward")  # accelerate puts one there
    module.forward = lambda *_, **__: output
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


@contextmanager
def noting_output(module: nn.Module) -> Iterator[list[Any]]:
    """Collect a module's outputs inside the block, copied shallowly: models change parts of an output in place."""
    found: list[Any] = []

    def note(_args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any) -> None:
        found.append(dict(output) if isinstance(output, Mapping) else output)

    with own_hooks([(module, note)]):
        yield found
