"""Reads feature maps off LLaVA's image tower while LLaVA runs it: no second pass, no change to the tower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from pvit_ext.ops.hooks import own_hooks


@contextmanager
def capture_feature_maps(tower: Any, layers: Sequence[int]) -> Iterator[list[Tensor]]:
    """Collect the hidden layers of every image that this thread passes through the tower inside the block.

    Args:
        tower: LLaVA's CLIPVisionTower.
        layers: indices into ``hidden_states``; nothing is hooked when empty.

    Yields:
        A list that holds, after the tower ran, one (B, C, H, W) map per layer.
    """
    maps: list[Tensor] = []
    if not layers:
        yield maps
        return

    def collect(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        pixels = kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]
        height, width = (side // tower.config.patch_size for side in pixels.shape[-2:])
        for layer in layers:
            patches = output.hidden_states[layer][:, -height * width :]  # (B, P, C), the class token leads
            maps.append(patches.transpose(1, 2).unflatten(2, (height, width)))  # (B, C, H, W)

    with own_hooks([(tower.vision_tower, collect)]):
        yield maps
