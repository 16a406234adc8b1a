"""A conversation as one text, by a processor's own chat template: a training record's, or a question's.

Both are written here, so that a question is asked in the text that a record of the same turns is trained in.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from pvit_ext.data.records import RecordError
from pvit_ext.prompt import IMAGE_PLACEHOLDER

ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
"""LLaVA's names of roles, and the chat templates'."""

_IMAGE_LINE = re.compile(rf"\n?{re.escape(IMAGE_PLACEHOLDER)}\n?")
_special: WeakKeyDictionary[Any, tuple[Any, ...]] = WeakKeyDictionary()
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
    """A turn as chat templates take it, its images where ``<image>`` stands in the text.

    LLaVA's records put ``<image>`` on a line of its own; templates write what stands beside images, so this break goes.
    """
    content: list[dict[str, str]] = []
    for number, part in enumerate(_IMAGE_LINE.split(text)):
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
    said = [(ROLES[turn["from"]], turn["value"]) for turn in turns]
    return _with_endings(processor, said, _written(processor, _messages(said)), name)


def render_question(processor: Any, turns: Sequence[tuple[str, str]], name: str) -> str:
    """Write a conversation up to an answer that is still to be given, as :func:`render` writes it before that answer.

    Args:
        processor: with a chat template.
        turns: (role, text) of each, the roles those of chat templates.
        name: of the question, for messages.

    Returns:
        the text; an earlier answer that the template changes, or writes none of, stays as the template has it.
    """
    return _with_endings(processor, turns, _written(processor, _messages(turns), True), name, asks=True).text


def begins_with_bos(tokenizer: Any, text: str) -> bool:
    """Whether the template wrote the first token itself: the tokenizer would add another."""
    return tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)


def _with_endings(
    processor: Any, turns: Sequence[tuple[str, str]], full: str, name: str, asks: bool = False
) -> Dialogue:
    """The text of a conversation in which each answer has its ending.

    Args:
        processor: with a chat template.
        turns: (role, text) of each.
        full: all of them by the template.
        name: of the conversation, for messages.
        asks: whether it is a question, of which nothing is trained.

    Raises:
        RecordError: for an answer that the template changes, unless it asks.
    """
    messages, text, cursor = _messages(turns), "", 0
    answers: list[tuple[int, int]] = []
    for number, (role, said) in enumerate(turns):
        if role != ROLES["gpt"]:
            continue
        answer = said.strip()
        try:
            start = _start_of(processor, messages[:number], answer, full, name)
        except RecordError:
            if not asks:
                raise
            continue
        end = start + len(answer)
        text += full[cursor:start]
        ending, cursor = _ending(processor.tokenizer, full, end, asks)
        answers.append((len(text), len(text) + len(answer + ending)))
        text += answer + ending
    return Dialogue(text + full[cursor:], tuple(answers))


def _messages(turns: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    return [message(role, text) for role, text in turns]


def _start_of(processor: Any, messages: list[dict[str, Any]], answer: str, full: str, name: str) -> int:
    """Characters before an answer that follows these turns."""
    start = full.find(answer, _end_of(processor, messages, full, name))
    if start < 0 or not answer:
        raise RecordError(f"{name}: the chat template does not write its answer {answer!r} as it is")
    return start


def _written(processor: Any, messages: list[dict[str, Any]], prompt: bool = False) -> str:
    return str(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))


def _end_of(processor: Any, messages: list[dict[str, Any]], full: str, name: str) -> int:
    """Characters before the answer that follows these turns."""
    for prompt in (True, False):  # some templates begin an answer differently than they prompt for it
        before = _written(processor, messages, prompt).rstrip() if messages else ""
        if full.startswith(before):
            return len(before)
    raise RecordError(f"{name}: the chat template writes earlier turns differently once others follow")


def _ending(tokenizer: Any, full: str, end: int, asks: bool) -> tuple[str, int]:
    """What ends the answer before ``end``, and how much of the text it takes."""
    behind = re.match(r"\s*", full[end:])
    blank = behind.group() if behind else ""
    for token in _special_tokens(tokenizer):
        if full.startswith(token, end + len(blank)) and token != tokenizer.bos_token:
            return blank + token, end + len(blank) + len(token)
    if asks:
        return tokenizer.eos_token or "", end
    if tokenizer.eos_token is None:
        raise ValueError(
            "the chat template writes no token behind an answer, and the tokenizer has no eos_token: an answer would "
            "not learn where to end; set tokenizer.eos_token, or end answers in the template"
        )
    _say_no_ending(tokenizer.eos_token)
    return str(tokenizer.eos_token), end


def _special_tokens(tokenizer: Any) -> list[str]:
    """Named ones, and those that the vocabulary alone calls special, as Gemma's ``<end_of_turn>``; long ones first."""
    state = (len(tokenizer), tuple(tokenizer.all_special_tokens))
    if _special.get(tokenizer, (None,))[0] != state:  # thousands in some vocabularies: 50 ms for each answer
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        _special[tokenizer] = (state, sorted({*state[1], *added}, key=lambda token: (-len(token), token)))
    found: list[str] = _special[tokenizer][1]
    return found


@cache
def _say_no_ending(token: str) -> None:
    logger.warning("the chat template writes no token behind an answer: each is trained to end with %s", token)
