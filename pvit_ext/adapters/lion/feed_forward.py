"""The feed-forward layers of a language model, and how a mixture of adapters comes to stand beside each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from pvit_ext.adapters.lion.mixture import MixtureOfAdapters
from pvit_ext.adapters.lion.routing import current

CHILD = "lion_adapters"
"""Name of a mixture in its feed-forward layer."""
_BLOCKS, _NAMES = ("layers", "blocks"), ("mlp", "ffn")
_IN_FILES = re.compile(rf"(?P<layer>(?:.*\.)?(?:{'|'.join(_BLOCKS)})\.(?P<block>\d+)\.(?:{'|'.join(_NAMES)}))\.")
_SEES = re.compile(r"(?:^|\.)(?:vision|visual|region_)")


def feed_forwards(language_model: nn.Module) -> list[nn.Module]:
    """The feed-forward layer of each block: ``layers.*.mlp`` (LLaMA, Mistral, ...), ``blocks.*.ffn`` (MPT).

    Args:
        language_model: without its head.

    Raises:
        ValueError: for one that has none by these names.
    """
    blocks: Any = next((getattr(language_model, name) for name in _BLOCKS if hasattr(language_model, name)), ())
    found = [next((getattr(one, name) for name in _NAMES if hasattr(one, name)), None) for one in blocks]
    if not found or None in found:
        raise ValueError(
            f"lion_adapters: the blocks of a {type(language_model).__name__} have no feed-forward layer by the name "
            f"{' or '.join(_NAMES)}; leave the option out"
        )
    return [layer for layer in found if layer is not None]


def names_in_files(names: Iterable[str]) -> list[str]:
    """Full names of the feed-forward layers of a checkpoint's language model, the first block's first.

    Args:
        names: of the tensors in its files.
    """
    matches = (_IN_FILES.match(name) for name in names if not _SEES.search(name))
    found = {int(match["block"]): match["layer"] for match in matches if match}
    return [found[block] for block in sorted(found)]


def put_beside(layers: Sequence[nn.Module], mixtures: Iterable[MixtureOfAdapters]) -> None:
    """Make each mixture a child of its feed-forward layer, and add what it gives to the layer's output.

    Args:
        layers: of :func:`feed_forwards`.
        mixtures: one for each.
    """
    for layer, mixture in zip(layers, mixtures, strict=True):
        if not hasattr(layer, CHILD):
            layer.register_forward_hook(_add)
        device = next(layer.parameters()).device
        setattr(layer, CHILD, mixture if device.type == "meta" else mixture.to(device))


def mixtures_in(model: nn.Module) -> list[MixtureOfAdapters]:
    """The mixtures of a model, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, MixtureOfAdapters)]


def _add(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    added: Tensor = getattr(layer, CHILD)(args[0], current())
    return output + added.to(output.dtype)
