"""What a model with adapters by task gets to choose them by: the tasks of a batch, and the words of its questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pvit_ext.adapters.lion.router import QUESTIONS, pad_questions
from pvit_ext.adapters.lion.tasks import TASKS, Tasks
from pvit_ext.prompt import HINT_PLACEHOLDER, IMAGE_PLACEHOLDER, REGION_PLACEHOLDER, replace_markup
from pvit_ext.tokens.tokenize import tokenize


def routing_inputs(
    tasks: Tasks | None, numbers: Sequence[int | None], questions: Sequence[Sequence[str]], tokenizer: Any
) -> dict[str, Tensor]:
    """Keywords of a model for a batch; none for a model without adapters by task.

    Args:
        tasks: of the model.
        numbers: of each sample's task, by :meth:`~pvit_ext.tokens.processor.RegionProcessor.task`.
        questions: of each sample's conversation.
        tokenizer: of the model.
    """
    if tasks is None:
        return {}
    found = {TASKS: torch.tensor([number for number in numbers if number is not None])}  # (B,)
    if tasks.by_question:
        found[QUESTIONS] = pad_questions([_words(own, tokenizer) for own in questions])  # (B, Q)
    return found


def _words(questions: Sequence[str], tokenizer: Any) -> list[int]:
    """Ids of a conversation's questions, without placeholders; its answers are not known when it is asked."""
    text = "\n".join(replace_markup(question) for question in questions)
    for placeholder in (IMAGE_PLACEHOLDER, REGION_PLACEHOLDER, HINT_PLACEHOLDER):
        text = text.replace(placeholder, " ")
    ids: list[int] = tokenize(tokenizer, text.strip(), add_special_tokens=False)["input_ids"]
    return ids
