"""LLaVA's tokenization of a prompt, with a sentinel where each ``<region>`` stands."""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch

from pvit_ext.prompt import IMAGE_TOKEN_INDEX, REGION_PLACEHOLDER, REGION_TOKEN_INDEX

_clones: WeakKeyDictionary[Any, tuple[Any, Any]] = WeakKeyDictionary()


def tokenizer_region_token(
    prompt: str, tokenizer: Any, image_token_index: int = IMAGE_TOKEN_INDEX, return_tensors: str | None = None
) -> Any:
    """LLaVA's ``tokenizer_image_token`` that also puts one REGION_TOKEN_INDEX where each ``<region>`` stands.

    No text is lost or added around a placeholder. The caller's tokenizer is never changed; a prompt without
    ``<region>`` goes to LLaVA's function as it is.

    Args:
        prompt: text with ``<image>`` and ``<region>``.
        tokenizer: a transformers tokenizer.
        image_token_index: sentinel for ``<image>``.
        return_tensors: ``"pt"`` for an int64 (L,) tensor, None for a list.
    """
    from llava.mm_utils import tokenizer_image_token

    if REGION_PLACEHOLDER not in prompt:
        return tokenizer_image_token(prompt, tokenizer, image_token_index, return_tensors)
    clone = _with_region_token(tokenizer)
    region_id = clone.convert_tokens_to_ids(REGION_PLACEHOLDER)
    ids = tokenizer_image_token(prompt, clone, image_token_index, return_tensors)
    if isinstance(ids, torch.Tensor):
        return ids.masked_fill(ids == region_id, REGION_TOKEN_INDEX)  # (L,)
    return [REGION_TOKEN_INDEX if token == region_id else token for token in ids]


def _with_region_token(tokenizer: Any) -> Any:
    """The tokenizer's clone that knows ``<region>``; made anew when the original's vocabulary or options changed."""
    from transformers import AddedToken

    state = (len(tokenizer), getattr(tokenizer, "add_bos_token", None), getattr(tokenizer, "add_eos_token", None))
    cached = _clones.get(tokenizer)
    if cached is None or cached[0] != state:
        clone = copy.deepcopy(tokenizer)
        clone.add_tokens([AddedToken(REGION_PLACEHOLDER, special=True, normalized=False)], special_tokens=True)
        cached = _clones[tokenizer] = (state, clone)
    return cached[1]
