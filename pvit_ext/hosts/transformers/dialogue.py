"""A training record as the text of a conversation, by a processor's own chat template, with its answers found in it."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pvit_ext.data.records import RecordError
from pvit_ext.prompt import IMAGE_PLACEHOLDER

ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
"""LLaVA's names of roles, and the chat templates'."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dialogue:
    """A conversation as one text.

    Args:
        text: of all turns.
        answers: (start, end) in characters of each answer, with the token that ends it.
    """

    text: str
    answers: tuple[tuple[int, ...], ...]

    def expanded(self, token: str, times: int) -> Dialogue:
        """The same text with a token written several times wherever it stands."""
        added = (times - 1) * len(token)
        spans = (tuple(one + added * self.text.count(token, 0, one) for one in span) for span in self.answers)
        return replace(self, text=self.text.replace(token, token * times), answers=tuple(spans))


def message(role: str, text: str) -> dict[str, Any]:
    """A turn as chat templates take it, its images where ``<image>`` stands in the text."""
    content: list[dict[str, str]] = []
    for number, part in enumerate(text.split(IMAGE_PLACEHOLDER)):
        content += [{"type": "image"}] if number else []
        content += [{"type": "text", "text": part}] if part else []
    return {"role": role, "content": content}


def render(processor: Any, turns: Sequence[dict[str, str]], name: str) -> Dialogue:
    """Write a conversation by the chat template, and find its answers.

    An answer ends with the special token that the template writes behind it, or else with the tokenizer's end of a
    text: a model that never saw one would never stop.

    Args:
        processor: with a chat template.
        turns: of a record, as LLaVA names them: ``from`` and ``value``.
        name: of the record, for messages.

    Raises:
        RecordError: where the template changes the text of an answer.
    """
    messages = [message(ROLES[turn["from"]], _beside_images(turn["value"])) for turn in turns]
    full, text, cursor = _written(processor, messages), "", 0
    answers: list[tuple[int, int]] = []
    for number, turn in enumerate(turns):
        if ROLES[turn["from"]] != "assistant":
            continue
        answer = turn["value"].strip()
        start = full.find(answer, _end_of(processor, messages[:number], full, name))
        if start < 0 or not answer:
            raise RecordError(f"{name}: the chat template does not write its answer {answer!r} as it is")
        end = start + len(answer)
        text += full[cursor:start]
        ending, cursor = _ending(processor.tokenizer, full, end)
        answers.append((len(text), len(text) + len(answer + ending)))
        text += answer + ending
    return Dialogue(text + full[cursor:], tuple(answers))


def begins_with_bos(tokenizer: Any, text: str) -> bool:
    """Whether the template wrote the first token itself: the tokenizer would add another."""
    return tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)


def _written(processor: Any, messages: list[dict[str, Any]], prompt: bool = False) -> str:
    return str(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))


def _end_of(processor: Any, messages: list[dict[str, Any]], full: str, name: str) -> int:
    """Characters before the answer that follows these turns."""
    for prompt in (True, False):  # some templates begin an answer differently than they prompt for it
        before = _written(processor, messages, prompt).rstrip() if messages else ""
        if full.startswith(before):
            return len(before)
    raise RecordError(f"{name}: the chat template writes earlier turns differently once others follow")


def _ending(tokenizer: Any, full: str, end: int) -> tuple[str, int]:
    """What ends the answer before ``end``, and how much of the text it takes."""
    behind = re.match(r"\s*", full[end:])
    blank = behind.group() if behind else ""
    for token in tokenizer.all_special_tokens:
        if full.startswith(token, end + len(blank)) and token != tokenizer.bos_token:
            return blank + token, end + len(blank) + len(token)
    _say_no_ending(tokenizer.eos_token)
    return str(tokenizer.eos_token), end


@cache
def _say_no_ending(token: str) -> None:
    logger.warning("the chat template writes no token behind an answer: each is trained to end with %s", token)


def _beside_images(text: str) -> str:
    """LLaVA's records put ``<image>`` on a line of its own; templates write what stands beside images."""
    return re.sub(rf"\n?({re.escape(IMAGE_PLACEHOLDER)})\n?", r"\1", text)
