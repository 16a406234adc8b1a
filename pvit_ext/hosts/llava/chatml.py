"""Labels for LLaVA's ChatML templates (``mpt``, ``chatml_direct``), which LLaVA 1.2.2 masks away altogether.

Its ``preprocess_mpt`` adds up the lengths of turns without the ``<|im_end|>`` behind them, finds the sum too small and
ignores the sample, with GPT-NeoX tokenizers (MPT's) as with LLaMA's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from llava import conversation
from llava.constants import IGNORE_INDEX
from torch import Tensor

from pvit_ext.hosts.llava.region_token import tokenizer_region_token


def preprocess_mpt(
    sources: Sequence[Sequence[dict[str, str]]], tokenizer: Any, has_image: bool = False
) -> dict[str, list[Tensor]]:
    """What LLaVA's function of this name returns, with every answer and the ``<|im_end|>`` behind it as labels.

    Args:
        sources: conversations, turns with ``from`` (``human`` or ``gpt``) and ``value``.
        tokenizer: of the model.
        has_image: both cases are the same here.

    Returns:
        per conversation ``input_ids`` (L,) and ``labels`` (L,) int64.
    """
    pairs = [_encode(source, tokenizer) for source in sources]
    return {"input_ids": [ids for ids, _ in pairs], "labels": [labels for _, labels in pairs]}


def _encode(source: Sequence[dict[str, str]], tokenizer: Any) -> tuple[Tensor, Tensor]:
    conv = conversation.default_conversation.copy()
    roles = dict(zip(("human", "gpt"), conv.roles, strict=True))
    answers = []
    for turn in source[source[0]["from"] != "human" :]:
        conv.append_message(roles[turn["from"]], None)  # the turn's head alone, as generation gets it
        start = len(tokenizer_region_token(conv.get_prompt(), tokenizer))
        conv.messages[-1] = [roles[turn["from"]], turn["value"]]
        if turn["from"] == "gpt":
            answers.append(slice(start, len(tokenizer_region_token(conv.get_prompt(), tokenizer))))
    ids = tokenizer_region_token(conv.get_prompt(), tokenizer, return_tensors="pt")  # (L,)
    labels = torch.full_like(ids, IGNORE_INDEX)
    for answer in answers:
        labels[answer] = ids[answer]
    return ids, labels
