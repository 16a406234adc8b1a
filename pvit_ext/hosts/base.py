"""What a vision-language model has to offer to hold region modules: seven names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from pvit_ext.regions.region import Size
from pvit_ext.regions.view import View

HiddenStates = Sequence[Tensor | None]
"""What the vision tower made, one (..., C) per hidden layer; None for a layer that nobody asked for."""


def has_cache(cache: Any) -> bool:
    """Whether a cache of keys and values holds a beginning of the prompt.

    Args:
        cache: of transformers; until 4.37 a tuple of layers, each of tensors (B, heads, L, C).
    """
    if cache is None or isinstance(cache, tuple):
        return bool(cache)
    return int(torch.as_tensor(cache.get_seq_length())) > 0


def cache_in(arguments: Mapping[str, Any]) -> Any:
    """The cache of keys and values among a model's arguments, whose name changes in transformers 5.24; or None."""
    return arguments.get("past_key_values", arguments.get("cache"))


class ImageViews(NamedTuple):
    """What the vision tower sees of one image.

    Args:
        base: the view of all of the image, alone or beside its tiles.
        tiles: all tiles as one view; None for an image without.
    """

    base: View
    tiles: View | None = None


class Host(Protocol):
    """A vision-language model as region modules see it."""

    @property
    def tower(self) -> nn.Module:
        """The vision tower."""

    @property
    def tower_config(self) -> Any:
        """Sizes of the vision tower, in the names of CLIP's config."""

    @property
    def select_layer(self) -> int:
        """The hidden layer that the language model reads."""

    @property
    def token_id(self) -> int:
        """Id that stands at every position of a region."""

    def run_tower(self, inputs: dict[str, Any]) -> HiddenStates | None:
        """Run the vision tower once, put its output in place of the pixels, and return its hidden states.

        Args:
            inputs: keyword arguments of the model's forward; changed in place.

        Returns:
            None for a batch without images.
        """

    def views(
        self, processor: Any, out: Mapping[str, Any], sizes: Sequence[Size], per_text: Sequence[int]
    ) -> list[ImageViews]:
        """How a pixel of each original lands in the vision tower's pixels.

        Args:
            processor: of the model, which made ``out``.
            out: inputs of the model.
            sizes: B (width, height) of the upright originals.
            per_text: images of each text.
        """

    def cells(
        self, inputs: Mapping[str, Any], hidden: HiddenStates, views: Sequence[ImageViews], tiled: bool
    ) -> list[Tensor]:
        """Which positions of the tower's flattened output are the cells of each image.

        Args:
            inputs: keyword arguments of the model's forward.
            hidden: from :meth:`run_tower`.
            views: of the B images.
            tiled: the cells of all tiles where an image has tiles, else those of its base view.

        Returns:
            B tables (rows, columns) int64.
        """
