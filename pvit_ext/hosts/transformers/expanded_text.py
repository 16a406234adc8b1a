"""Where the parts of a text are once a processor has written its images into it, each as many tokens.

A processor may write an image otherwise beside others (LLaVA-OneVision), and more than images (PaliGemma's start behind
the last image and line end behind the text). So the text is taken that its tokenizer gets, and searched.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from pvit_ext.data.records import RecordError


class NotingTokenizer:
    """A tokenizer that keeps the texts of its last call.

    Args:
        tokenizer: that does the work.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.texts = tokenizer, list[str]()

    def __getattr__(self, name: str) -> Any:
        if name == "tokenizer":  # pickle asks before there is one
            raise AttributeError(name)
        return getattr(self.tokenizer, name)

    def __call__(self, text: str | Sequence[str], *args: Any, **kwargs: Any) -> Any:
        """The tokenizer's own call."""
        self.texts = [text] if isinstance(text, str) else list(text)
        return self.tokenizer(text, *args, **kwargs)


def noting(processor: Any) -> Any:
    """A copy of a processor whose ``tokenizer.texts`` are what it last tokenized; the original stays as it is."""
    copied = copy.copy(processor)
    copied.tokenizer = NotingTokenizer(processor.tokenizer)
    return copied


def spans_in(expanded: str, text: str, token: str, spans: Sequence[Sequence[int]], name: str) -> list[list[int]]:
    """Where spans of a text are in the same text with its images written out.

    Args:
        expanded: that the tokenizer got.
        text: with ``token`` for each image.
        token: of an image.
        spans: (start, end) in characters of ``text``, none of which holds an image.
        name: of the record, for messages.

    Raises:
        RecordError: when the processor wrote something of the text otherwise.
    """
    shifts, start, found = list[tuple[int, int]](), 0, 0  # (end of a part in the text, how far it moved)
    for part in text.split(token):
        found = expanded.find(part, found)
        if found < 0:
            raise RecordError(f"{name}: the processor writes {part!r} otherwise than it is in its conversation")
        shifts.append((start + len(part), found - start))
        start, found = start + len(part) + len(token), found + len(part)
    return [[place + _shift(shifts, span[1]) for place in span] for span in spans]


def _shift(shifts: Sequence[tuple[int, int]], place: int) -> int:
    return next(shift for end, shift in shifts if place <= end)
