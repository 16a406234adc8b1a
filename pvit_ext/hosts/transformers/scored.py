"""How likely a model of transformers finds texts as answers to a batch of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pvit_ext.hosts.scored import IGNORE_INDEX, behind_beginning, behind_prompt, ids_behind, log_probs_of, with_answers
from pvit_ext.hosts.transformers.batch import RegionBatch
from pvit_ext.hosts.transformers.dialogue import message
from pvit_ext.tokens.tokenize import tokenize


def answer_ids(processor: Any, prompt: str, answer: str) -> list[int]:
    """Ids of an answer behind its prompt, without what ends it.

    Args:
        processor: of the model.
        prompt: text, with placeholders.
        answer: text.
    """

    def said(one: str | None) -> str:
        turns = [message("user", "?"), *([] if one is None else [message("assistant", one)])]
        text: str = processor.apply_chat_template(turns, add_generation_prompt=one is None, tokenize=False)
        return text

    text = behind_prompt(said, answer)

    def encode(one: str) -> list[int]:
        return list(tokenize(processor.tokenizer, one, add_special_tokens=False).input_ids)

    return ids_behind(encode, encode, prompt, text)


@torch.no_grad()
def log_probs(model: Any, batch: dict[str, Any], answers: Sequence[Sequence[int]], both_ways: bool) -> list[Tensor]:
    """Log-probabilities (n,) of the ids of an answer to each prompt.

    Args:
        model: with or without regions.
        batch: arguments of its ``generate``, whose beginning may have been read.
        answers: ids, one list for each prompt.
        both_ways: see :class:`~pvit_ext.hosts.transformers.families.base.Family`; answers are of type 1.
    """
    if batch.get("past_key_values") is not None:
        return _behind_a_beginning(model, batch, answers)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    given = {key: value for key, value in batch.items() if key != "labels"}  # PaliGemma's
    for key, value in given.items():
        if (
            isinstance(value, Tensor) and value.shape == ids.shape and key != "questions"
        ):  # types of tokens and the like
            behind = int(key == "attention_mask" or (key == "token_type_ids" and both_ways))
            own = answers if key == "input_ids" else [[behind] * len(one) for one in answers]
            given[key] = with_answers(value, mask, own, 0)
    labels = with_answers(torch.full_like(ids, IGNORE_INDEX), mask, answers, IGNORE_INDEX)
    first = int(mask.sum(1).min()) - 1
    logits = model(**given, logits_to_keep=labels.shape[1] - first).logits  # (B, L', V)
    return log_probs_of(logits, labels[:, first:])


def _behind_a_beginning(model: Any, batch: dict[str, Any], answers: Sequence[Sequence[int]]) -> list[Tensor]:
    """:func:`log_probs` of a batch of :func:`~pvit_ext.hosts.transformers.prefix.with_prefix`."""
    parts = zip(batch["input_ids"], batch["attention_mask"].bool(), answers, strict=True)
    rows = [torch.cat([row[here], row.new_tensor(own)]) for row, here, own in parts]
    ids, given, labels = behind_beginning(rows, answers, batch["past_key_values"])
    if any(batch.get("regions") or []):
        shown = (batch.get(name) for name in ("region_sizes", "region_views", "region_extra"))
        regions = RegionBatch.of(batch["regions"], *shown)
        given["region_tokens"] = model.base_model.region_tokens(dict(batch), regions)
    return log_probs_of(model(input_ids=ids, **given).logits, labels)
