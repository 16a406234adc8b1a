"""The special tokens of a tokenizer, none of which may stand in a tag: ``</s>`` there would end the prompt."""

from __future__ import annotations

from functools import cached_property
from typing import Any


class SpecialTokens:
    """What a tokenizer reads as one id that stands for no text.

    Args:
        tokenizer: of transformers, asked for them once, when there is a tag; None has none.
    """

    def __init__(self, tokenizer: Any = None) -> None:
        self.tokenizer = tokenizer

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Named ones and added ones as they are written, the longest first."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {}).values()  # Gemma's 6,400 take 20 ms
        found = {*getattr(self.tokenizer, "all_special_tokens", ()), *(one.content for one in added if one.special)}
        return tuple(sorted((one for one in found if one.strip()), key=lambda one: (-len(one), one)))

    def within(self, text: str) -> str | None:
        """One that a text holds, if any."""
        if self._starts.isdisjoint(text):  # hardly a tag has a bracket
            return None
        return next((token for token in self.tokens if token in text), None)

    @cached_property
    def _starts(self) -> frozenset[str]:
        return frozenset(token[0] for token in self.tokens)
