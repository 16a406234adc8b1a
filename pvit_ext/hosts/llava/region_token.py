"""LLaVA's tokenization of a prompt, with a sentinel where each ``<region>`` stands, and no text dropped."""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch

from pvit_ext.prompt import IMAGE_PLACEHOLDER, IMAGE_TOKEN_INDEX, REGION_PLACEHOLDER, REGION_TOKEN_INDEX

_clones: WeakKeyDictionary[Any, tuple[Any, Any]] = WeakKeyDictionary()


def tokenizer_region_token(
    prompt: str, tokenizer: Any, image_token_index: int = IMAGE_TOKEN_INDEX, return_tensors: str | None = None
) -> Any:
    """LLaVA's ``tokenizer_image_token`` that also puts one REGION_TOKEN_INDEX where each ``<region>`` stands.

    The caller's tokenizer is never changed. Without ``<region>`` the ids are LLaVA's, except where LLaVA drops text: if
    a tokenizer adds no BOS but the prompt starts with it (ChatML's where ``<|im_start|>`` is BOS), LLaVA takes the
    first token after every ``<image>`` for a BOS.

    Args:
        prompt: text with ``<image>`` and ``<region>``.
        tokenizer: a transformers tokenizer.
        image_token_index: sentinel for ``<image>``.
        return_tensors: ``"pt"`` for an int64 (L,) tensor, None for a list.

    Raises:
        ValueError: for another value of ``return_tensors``.
    """
    if return_tensors not in (None, "pt"):
        raise ValueError(f"Unsupported tensor type: {return_tensors}")
    known = _with_region_token(tokenizer) if REGION_PLACEHOLDER in prompt else tokenizer
    ids = _with_images(prompt, known, image_token_index)
    if known is not tokenizer:
        region_id = known.convert_tokens_to_ids(REGION_PLACEHOLDER)
        ids = [REGION_TOKEN_INDEX if token == region_id else token for token in ids]
    return ids if return_tensors is None else torch.tensor(ids, dtype=torch.long)  # (L,)


def _with_images(prompt: str, tokenizer: Any, image_token_index: int) -> list[int]:
    first, *rest = (list(tokenizer(chunk).input_ids) for chunk in prompt.split(IMAGE_PLACEHOLDER))
    added = int(tokenizer.bos_token_id is not None and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id])
    return first + [token for chunk in rest for token in (image_token_index, *chunk[added:])]


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
