"""Spans of a text after a processor has replaced each image in it by many tokens.

A processor may write an image differently beside others (LLaVA-OneVision), and add more than images (PaliGemma's start
behind the last image and line end behind the text). So the spans are searched in the text that its tokenizer gets.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from pvit_ext.data.records import RecordError
from pvit_ext.tokens.tokenize import tokenize


class NotingTokenizer:
    """A tokenizer that keeps the texts of its last call, and is called by one thread at a time.

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
        return tokenize(self.tokenizer, text, *args, **kwargs)


def noting(processor: Any) -> Any:
    """A copy of a processor whose ``tokenizer.texts`` are what it last tokenized; the original stays as it is."""
    if isinstance(processor.tokenizer, NotingTokenizer):
        return processor
    copied = copy.copy(processor)
    copied.tokenizer = NotingTokenizer(processor.tokenizer)
    return copied


def spans_in(expanded: str, text: str, image: str, spans: Sequence[Sequence[int]], name: str) -> list[list[int]]:
    """Find spans of a text in the same text with its images written out.

    Args:
        expanded: the text that the tokenizer got.
        text: the same with a placeholder for each image.
        image: regular expression of it, without groups, and of what the processor may have put more behind.
        spans: (start, end) in characters of ``text``, none of which holds an image.
        name: location of the record, for messages.

    Raises:
        RecordError: when the processor wrote a part of the text differently.
    """
    shifts, start, found = list[tuple[int, int]](), 0, 0  # (end of a part in the text, how far it moved)
    ends = [match.span() for match in re.finditer(image, text)]
    for begin, end in [*ends, (len(text), len(text))]:
        part = text[start:begin]
        found = expanded.find(part, found)
        if found < 0:
            raise RecordError(f"{name}: the processor writes {part!r} differently than its conversation")
        shifts.append((begin, found - start))
        start, found = end, found + len(part)
    return [[index + _shift(shifts, span[1]) for index in span] for span in spans]


def _shift(shifts: Sequence[tuple[int, int]], index: int) -> int:
    return next(shift for end, shift in shifts if index <= end)
