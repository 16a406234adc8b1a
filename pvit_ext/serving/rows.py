"""Follows the rows of one ``generate`` call: their pieces, their ends and their cancellation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria

from pvit_ext.hosts.chat import Chat, Ends
from pvit_ext.serving.answer import Answer, Completed, FinishReason, cut_at

_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
_HELD = 4
"""Characters behind the last space that may still change: tokenizers of English clean up `` n't`` and the like."""


class Rows(StoppingCriteria):
    """Hands each row's text to its answer as it comes, and ends the batch when every row has ended.

    A row ends by itself, at a stop text, at its own most tokens or when its answer is cancelled, whatever the other
    rows do. ``generate`` goes on with all rows until the last has ended, as transformers 4.36 can.

    Args:
        chat: of the model.
        batch: the arguments of ``generate``.
        answers: of the B rows.
        limits: most tokens of each.
        ends: how answers end.
        byte_ids: from :func:`byte_ids` of the tokenizer.
        stops: criteria of the model's own ``generation_config``, which ends its rows in ``generate`` by itself.
    """

    def __init__(
        self, chat: Chat, batch: dict[str, Any], answers: Sequence[Answer], limits: list[int], ends: Ends,
        byte_ids: frozenset[int], stops: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        self.chat, self.batch, self.answers, self.limits, self.ends = chat, batch, answers, limits, ends
        self.prompt_tokens = chat.positions(batch)
        self.end_ids, self.criteria = set(ends.ids), [*ends.criteria, *stops]
        self.separators = tuple(one.stop for one in ends.criteria if hasattr(one, "stop"))
        self.byte_ids = byte_ids
        self.step = 0

    def beyond(self, context: int) -> list[Answer]:
        """Those whose answers would reach beyond the model's context, since their prompts are padded to the longest.

        Padding is masked, but ALiBi (MPT) counts its positions, and a key-value cache holds them.

        Args:
            context: positions of the model.
        """
        longest = max(self.prompt_tokens)
        return [one for one, most in zip(self.answers, self.limits, strict=True) if longest + most > context]

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        """One bool, whether all have ended; called once behind each new token, with ids (B, L)."""
        if len(input_ids) != len(self.answers):  # none gets another one's words, whatever a model's generate does
            raise RuntimeError(f"generate has {len(input_ids)} rows for {len(self.answers)} questions")
        self.step += 1
        last = input_ids[:, -1].tolist()
        for number, answer in enumerate(self.answers):
            if not answer.done:
                self._advance(number, answer, input_ids[number : number + 1], last[number], scores)
        return torch.tensor(all(answer.done for answer in self.answers), device=input_ids.device)

    def _advance(self, number: int, answer: Answer, ids: Tensor, last: int, scores: Any) -> None:
        ended = last in self.end_ids or any(bool(one(ids, scores)) for one in self.criteria)
        full = self.step >= self.limits[number]
        stops = answer.settings.stop
        if not (ended or full or stops or answer.wants_pieces):
            return
        text = self.chat.answers(ids, self.batch)[0]
        cut = cut_at(text, stops)
        if ended or full or cut is not None:
            reason: FinishReason = "length" if full and not ended and cut is None else "stop"
            tokens = ids[0, -self.step :].tolist()
            answer.complete(Completed(text if cut is None else cut, tokens, self.prompt_tokens[number], reason))
        elif answer.wants_pieces:
            if run := self._bytes_behind(ids):
                text = self.chat.answers(ids[:, :-run], self.batch)[0]
            answer.push_up_to(stable(text, (*stops, *self.separators)))

    def _bytes_behind(self, ids: Tensor) -> int:
        """How many tokens at the end of a row (1, L) are single bytes, or left out of its text.

        A run of them is text if all of it is UTF-8, else every byte is U+FFFD: the next token may change the first.
        """
        new = ids[0, -self.step :].tolist()
        return next((run for run, one in enumerate(reversed(new)) if one not in self.byte_ids), len(new))


def byte_ids(tokenizer: Any) -> frozenset[int]:
    """The tokens of a SentencePiece vocabulary that stand for one byte, ``<0x0A>``, and those that may lie between.

    Special tokens are left out of a text before bytes are put together. None in a vocabulary without bytes.
    """
    found = frozenset(number for token, number in tokenizer.get_vocab().items() if _BYTE.fullmatch(token))
    return found and found.union(tokenizer.all_special_ids)


def stable(text: str, stops: Sequence[str]) -> str:
    """The beginning of an unfinished text that no further token changes.

    Args:
        text: all of it so far.
        stops: texts that would cut it.
    """
    longest = max((_begun(text, stop) for stop in stops), default=0)
    text = text[: len(text) - longest].rstrip("\ufffd").rstrip()
    space = max(text.rfind(" "), text.rfind("\n"))
    return text[:space].rstrip() if space >= 0 and len(text) - space <= _HELD else text


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of a text may begin a stop text."""
    return next((length for length in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:length])), 0)
