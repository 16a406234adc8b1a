"""Reads feature maps off a vision tower while LLaVA runs it: no second pass, no change to the tower."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from pvit_ext.ops.hooks import own_hooks


@contextmanager
def capture_feature_maps(
    tower: Any, layers: Sequence[int], show: Callable[[Any], Sequence[Tensor]] | None = None
) -> Iterator[list[Tensor]]:
    """Collect the hidden layers of every image that this thread passes through the tower inside the block.

    Args:
        tower: LLaVA's CLIPVisionTower, or one that has ``feature_maps(output)``.
        layers: indices into ``hidden_states``, or into those maps; nothing is hooked when empty.
        show: in the place of ``feature_maps``, what makes maps of the tower's output.

    Yields:
        A list that holds, after the tower ran, one (B, C, H, W) map per layer.
    """
    maps: list[Tensor] = []
    if not layers:
        yield maps
        return

    def collect_offered(_args: tuple[Any, ...], _kwargs: dict[str, Any], output: Any) -> None:
        offered = (show or tower.feature_maps)(output)
        maps.extend(offered[layer] for layer in layers)

    def collect(args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        pixels = kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]
        height, width = (side // tower.config.patch_size for side in pixels.shape[-2:])
        for layer in layers:
            patches = output.hidden_states[layer][:, -height * width :]  # (B, P, C), the class token leads
            maps.append(patches.transpose(1, 2).unflatten(2, (height, width)))  # (B, C, H, W)

    hook = collect_offered if hasattr(tower, "feature_maps") else collect
    with own_hooks([(tower.vision_tower, hook)]):
        yield maps
