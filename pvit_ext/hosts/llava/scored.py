"""How likely a LLaVA finds texts as answers to a batch of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pvit_ext.adapters.lion.router import QUESTIONS
from pvit_ext.adapters.lion.tasks import TASKS
from pvit_ext.hosts.llava.region_token import tokenizer_region_token
from pvit_ext.hosts.scored import IGNORE_INDEX, behind_beginning, behind_prompt, ids_behind, log_probs_of, with_answers
from pvit_ext.hosts.stored_vision import TOWER_OUTPUT
from pvit_ext.prompt import IMAGE_PLACEHOLDER, IMAGE_TOKEN_INDEX, REGION_PLACEHOLDER
from pvit_ext.regions.region import RegionError


def answer_ids(tokenizer: Any, template: Any, prompt: str, answer: str) -> list[int]:
    """Ids of an answer behind its prompt, without what ends it.

    Args:
        tokenizer: of LLaVA.
        template: LLaVA's conversation template.
        prompt: text, with placeholders.
        answer: text.
    """

    def said(one: str | None) -> str:
        conv = template.copy()
        conv.append_message(conv.roles[0], "?")
        conv.append_message(conv.roles[1], one)
        text: str = conv.get_prompt()
        return text

    text = behind_prompt(said, answer)

    def alone(one: str) -> list[int]:
        return list(tokenizer(one, add_special_tokens=False).input_ids)

    def encode(one: str) -> list[int]:
        return list(tokenizer_region_token(one, tokenizer, IMAGE_TOKEN_INDEX))

    if IMAGE_PLACEHOLDER in answer or REGION_PLACEHOLDER in answer:  # plain text here
        return alone(text)
    return ids_behind(encode, alone, prompt, text)


@torch.no_grad()
def log_probs(model: Any, batch: dict[str, Any], answers: Sequence[Sequence[int]]) -> list[Tensor]:
    """Log-probabilities (n,) of the ids of an answer to each prompt.

    Args:
        model: LLaVA.
        batch: arguments of its ``generate``, whose beginning may have been read.
        answers: ids, one list for each prompt.

    Raises:
        RegionError: when LLaVA cuts an answer off.
    """
    if "inputs_embeds" in batch:
        return _behind_a_beginning(model, batch, answers)
    mask = batch["attention_mask"]
    ids = with_answers(batch["inputs"], mask, answers, 0)
    labels = with_answers(torch.full_like(batch["inputs"], IGNORE_INDEX), mask, answers, IGNORE_INDEX)
    here = with_answers(mask.long(), mask, [[1] * len(one) for one in answers], 0).bool()
    ids, position_ids, here, _, embeds, labels = model.prepare_inputs_labels_for_multimodal(
        ids, None, here, None, labels, batch["images"], batch["image_sizes"], batch["regions"], batch["region_extra"],
        None, batch.get(TOWER_OUTPUT),
    )  # fmt: skip
    for number, (wanted, own) in enumerate(zip(labels, answers, strict=True)):
        if int((wanted != IGNORE_INDEX).sum()) != len(own):
            raise _too_long(model, number)
    named = {} if position_ids is None else {"position_ids": position_ids}
    named |= {key: batch[key] for key in (TASKS, QUESTIONS) if key in batch}
    shown = {"input_ids": ids} if embeds is None else {"inputs_embeds": embeds}
    return log_probs_of(model(**shown, **named, attention_mask=here).logits, labels)


def _behind_a_beginning(model: Any, batch: dict[str, Any], answers: Sequence[Sequence[int]]) -> list[Tensor]:
    """:func:`log_probs` of a batch of :func:`~pvit_ext.hosts.llava.prefix.with_prefix`."""
    embed, mask = model.get_input_embeddings(), batch["attention_mask"].bool()
    limit, rows = getattr(model.config, "tokenizer_model_max_length", None), []
    for number, (row, here, own) in enumerate(zip(batch["inputs_embeds"], mask, answers, strict=True)):
        prompt, ids = row[here], torch.tensor(own, device=row.device)
        if limit is not None and len(prompt) + len(own) > limit:
            raise _too_long(model, number)
        rows.append(torch.cat([prompt, embed(ids).to(prompt)]))
    shown, given, labels = behind_beginning(rows, answers, batch["past_key_values"])
    return log_probs_of(model(inputs_embeds=shown, **given).logits, labels)


def _too_long(model: Any, number: int) -> RegionError:
    limit = getattr(model.config, "tokenizer_model_max_length", None)
    return RegionError(f"sample {number}: prompt and answer take more positions than the model's {limit}")
