"""The vision aggregator in LLaVA: added to the image's rows before LLaVA lays them out, or rows behind the image.

Added before LLaVA joins tiles, crops padding and writes newlines, each row follows its cell through all of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pvit_ext.adapters.lion.aggregator import VisionAggregator, boundaries
from pvit_ext.hosts.llava.image_layout import count_crops
from pvit_ext.hosts.llava.splice import inject_rows, mark_rows
from pvit_ext.hosts.llava.tower import capture_feature_maps
from pvit_ext.hosts.llava.vision_tower import check_offers, offered_layers
from pvit_ext.prompt import IMAGE_TOKEN_INDEX

_appended: ContextVar[list[Tensor] | None] = ContextVar("appended", default=None)
"""Rows (crops, P, D) of the prompt that is being laid out; None where nobody asks for them."""
Prepare = Callable[..., tuple[Any, ...]]
"""LLaVA's ``prepare_inputs_labels_for_multimodal``."""


def aggregator_of(model: Any) -> VisionAggregator | None:
    """The vision aggregator of a LLaVA, or None."""
    found: VisionAggregator | None = getattr(model.get_model(), "region_aggregator", None)
    return found


def layers_read(model: Any) -> tuple[int, ...]:
    """Hidden layers of the vision tower that a LLaVA's aggregator reads.

    Raises:
        ValueError: for a tower that does not show them.
    """
    if (part := aggregator_of(model)) is None:
        return ()
    check_offers(model.get_vision_tower())
    return part.layers


def encode_images(model: Any, images: Tensor, stock: Callable[[Tensor], Tensor]) -> Tensor:
    """Rows (crops, P, D) of crops (crops, 3, H, W), by LLaVA's method, with the aggregator's added.

    Args:
        model: LLaVA.
        images: pixels.
        stock: LLaVA's ``encode_images``.
    """
    part, wanted = aggregator_of(model), _appended.get()
    if part is None or (part.appended and wanted is None):
        return stock(images)
    tower, layers = model.get_vision_tower(), layers_read(model)
    show = partial(offered_layers, tower) if hasattr(tower, "feature_maps") else None
    with capture_feature_maps(tower, layers, show) as maps:
        features = stock(images)
    rows = _rows(part, maps)
    if not part.appended:
        return features + rows.to(features)
    assert wanted is not None
    wanted.append(rows)
    return features


def _rows(part: VisionAggregator, maps: list[Tensor]) -> Tensor:
    """Maps (crops, C, H, W) -> (crops, H * W, D)."""
    crops, cells = len(maps[0]), maps[0].shape[2] * maps[0].shape[3]
    layers = [one.flatten(2).transpose(1, 2).flatten(0, 1) for one in maps]  # (crops * cells, C)
    return part(layers, boundaries(crops, cells)).unflatten(0, (crops, cells))


def appending(model: Any, stock: Prepare) -> Prepare:
    """LLaVA's layout of a prompt, with the aggregator's rows behind each image where the model appends them.

    Args:
        model: LLaVA.
        stock: LLaVA's method.
    """
    part = aggregator_of(model)
    if part is None or not part.appended:
        return stock

    def prepare(ids: Tensor, position_ids: Any, mask: Any, cache: Any, labels: Any, images: Any, sizes: Any) -> Any:
        if images is None or ids.shape[1] == 1:
            return stock(ids, position_ids, mask, cache, labels, images, sizes)
        batch = mark_rows(ids, labels, mask, model.get_vision_tower().num_patches)
        with _collecting() as found:
            _, position_ids, new_mask, cache, embeds, marked = stock(
                batch.input_ids, position_ids, batch.attention_mask, cache, batch.labels, images, sizes
            )
        rows = _base_views(torch.cat(found), images)
        embeds, marked = inject_rows(embeds, marked, rows[_shown(ids, mask).to(rows.device)])
        embeds = embeds + (0.0 * rows).sum().to(embeds)  # ZeRO: rows of a text's blank image train too
        new_mask = None if mask is None else new_mask.to(mask.dtype)
        return None, position_ids, new_mask, cache, embeds, None if labels is None else marked

    return prepare


def _base_views(rows: Tensor, images: Any) -> Tensor:
    """Of the crops of each image the first, which shows all of it: (crops, P, D) -> (B, P, D)."""
    crops = torch.tensor(count_crops(images))
    return rows[(crops.cumsum(0) - crops).to(rows.device)]


def _shown(ids: Tensor, mask: Tensor | None) -> Tensor:
    """Which images stand in a prompt, (B,) bool: LLaVA takes a blank one from a sample without."""
    keep = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    counts = ((ids == IMAGE_TOKEN_INDEX) & keep).sum(1)
    return (counts > 0).repeat_interleave(counts.clamp(min=1))


@contextmanager
def _collecting() -> Iterator[list[Tensor]]:
    found: list[Tensor] = []
    token = _appended.set(found)
    try:
        yield found
    finally:
        _appended.reset(token)
