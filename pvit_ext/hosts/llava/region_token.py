"""LLaVA's tokenization of a prompt, with a sentinel where each ``<region>`` stands, and no text dropped."""

from __future__ import annotations

import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch

from pvit_ext.prompt import (
    HINT_PLACEHOLDER,
    HINT_TOKEN_INDEX,
    IMAGE_PLACEHOLDER,
    IMAGE_TOKEN_INDEX,
    REGION_PLACEHOLDER,
    REGION_TOKEN_INDEX,
)

_clones: WeakKeyDictionary[Any, dict[tuple[str, ...], tuple[Any, Any]]] = WeakKeyDictionary()


def tokenizer_region_token(
    prompt: str, tokenizer: Any, image_token_index: int = IMAGE_TOKEN_INDEX, return_tensors: str | None = None
) -> Any:
    """LLaVA's ``tokenizer_image_token`` that also puts one REGION_TOKEN_INDEX where each ``<region>`` stands.

    The caller's tokenizer is never changed. Without ``<region>`` the ids are LLaVA's, except where LLaVA drops text: if
    a tokenizer adds no BOS but the prompt starts with it (ChatML's where ``<|im_start|>`` is BOS), LLaVA takes the
    first token after every ``<image>`` for a BOS.

    Args:
        prompt: text with ``<image>`` and ``<region>``.
        tokenizer: a transformers tokenizer, or a :class:`HintTokenizer`.
        image_token_index: sentinel for ``<image>``.
        return_tensors: ``"pt"`` for an int64 (L,) tensor, None for a list.

    Raises:
        ValueError: for another value of ``return_tensors``.
    """
    if return_tensors not in (None, "pt"):
        raise ValueError(f"Unsupported tensor type: {return_tensors}")
    sentinels = {REGION_PLACEHOLDER: REGION_TOKEN_INDEX}
    if isinstance(tokenizer, HintTokenizer):
        tokenizer, sentinels = tokenizer.tokenizer, sentinels | {HINT_PLACEHOLDER: HINT_TOKEN_INDEX}
    placeholders = tuple(placeholder for placeholder in sentinels if placeholder in prompt)
    known = _with_tokens(tokenizer, placeholders) if placeholders else tokenizer
    ids = _with_images(prompt, known, image_token_index)
    if placeholders:
        sentinel_of = {known.convert_tokens_to_ids(name): sentinels[name] for name in placeholders}
        ids = [sentinel_of.get(token, token) for token in ids]
    return ids if return_tensors is None else torch.tensor(ids, dtype=torch.long)  # (L,)


class HintTokenizer:
    """A tokenizer for a model with a hint vector: ``<hint>`` becomes HINT_TOKEN_INDEX; by any other it is text.

    Args:
        tokenizer: that does the work.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        if name == "tokenizer":  # pickle asks before there is one
            raise AttributeError(name)
        return getattr(self.tokenizer, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The tokenizer's own call."""
        return self.tokenizer(*args, **kwargs)


def _with_images(prompt: str, tokenizer: Any, image_token_index: int) -> list[int]:
    first, *rest = (list(tokenizer(chunk).input_ids) for chunk in prompt.split(IMAGE_PLACEHOLDER))
    added = int(tokenizer.bos_token_id is not None and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id])
    return first + [token for chunk in rest for token in (image_token_index, *chunk[added:])]


def _with_tokens(tokenizer: Any, names: tuple[str, ...]) -> Any:
    """The tokenizer's clone that knows these tokens; made anew when the original's vocabulary or options changed."""
    from transformers import AddedToken

    state = (len(tokenizer), getattr(tokenizer, "add_bos_token", None), getattr(tokenizer, "add_eos_token", None))
    clones = _clones.setdefault(tokenizer, {})
    if names not in clones or clones[names][0] != state:
        clone = copy.deepcopy(tokenizer)
        clone.add_tokens([AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True)
        clones[names] = (state, clone)
    return clones[names][1]
