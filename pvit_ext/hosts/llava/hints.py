"""LION's hint vector in LLaVA: written where ``<hint>`` stands, once LLaVA has laid the prompt out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pvit_ext.adapters.lion.hint import TagHint
from pvit_ext.hosts.llava.splice import HINT_MARK, IGNORE_INDEX, mark_hints
from pvit_ext.prompt import HINT_TOKEN_INDEX
from pvit_ext.regions.region import RegionError

Prepare = Callable[..., tuple[Any, ...]]
"""LLaVA's ``prepare_inputs_labels_for_multimodal``."""
_NO_VECTOR = (
    "the prompt has <hint>, but the model has no hint vector: attach one (lion_tags='hint'), or tokenise it as text"
)


def hint_of(model: Any) -> TagHint | None:
    """The hint vector of a LLaVA, or None."""
    found: TagHint | None = getattr(model.get_model(), "region_hint", None)
    return found


def holds_hints(ids: Tensor | None) -> bool:
    """Whether a prompt (B, L) has a hint; a single id is the decoding loop, which has none."""
    return ids is not None and ids.shape[-1] > 1 and bool((ids == HINT_TOKEN_INDEX).any())


def writing(model: Any, stock: Prepare) -> Prepare:
    """LLaVA's layout of a prompt, with the hint vector at its marked positions; without any, LLaVA's own.

    Args:
        model: LLaVA.
        stock: LLaVA's method.
    """
    part = hint_of(model)

    def prepare(ids: Tensor, position_ids: Any, mask: Any, cache: Any, labels: Any, images: Any, sizes: Any) -> Any:
        found = holds_hints(ids)
        if found and part is None:
            raise RegionError(_NO_VECTOR)
        if part is None or ids.shape[1] == 1 or not (found or model.training):
            return stock(ids, position_ids, mask, cache, labels, images, sizes)
        if images is None or model.get_vision_tower() is None:  # LLaVA lays nothing out
            here = ids == HINT_TOKEN_INDEX
            embeds = model.get_model().embed_tokens(ids.masked_fill(here, 0))
            labels = None if labels is None else labels.masked_fill(here, IGNORE_INDEX)
            return None, position_ids, mask, cache, part.write(embeds, here), labels
        batch = mark_hints(ids, labels, mask)
        _, position_ids, new_mask, cache, embeds, marked = stock(
            batch.input_ids, position_ids, batch.attention_mask, cache, batch.labels, images, sizes
        )
        here = marked <= HINT_MARK  # (B, L)
        _check_cut(ids, mask, here)
        new_mask = None if mask is None else new_mask.to(mask.dtype)
        labels = None if labels is None else marked.masked_fill(here, IGNORE_INDEX)
        return None, position_ids, new_mask, cache, part.write(embeds, here), labels

    return prepare


def _check_cut(ids: Tensor, mask: Tensor | None, here: Tensor) -> None:
    """Refuse a prompt of which LLaVA cut a hint off.

    Raises:
        RegionError: naming the sample.
    """
    keep = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    wanted = ((ids == HINT_TOKEN_INDEX) & keep).sum(1)  # (B,)
    for sample, (count, found) in enumerate(zip(wanted.tolist(), here.sum(1).tolist(), strict=True)):
        if found != count:
            raise RegionError(
                f"sample {sample}: {count - found} of its {count} <hint> cut off, because the prompt with images is "
                f"longer than the model's maximum of {here.shape[1]}; shorten the prompt or its tags, or raise "
                "model_max_length (tokenizer_model_max_length)"
            )
