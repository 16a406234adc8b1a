"""The special tokens of a tokenizer, none of which may stand in a tag: ``</s>`` there would end the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True)
class SpecialTokens:
    """What a tokenizer reads as one id that stands for no text.

    Args:
        tokens: as they are written, the longest first.
    """

    tokens: tuple[str, ...] = ()

    @classmethod
    def of(cls, tokenizer: Any) -> SpecialTokens:
        """Those of a tokenizer of transformers, named ones and added ones."""
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        found = {*getattr(tokenizer, "all_special_tokens", ()), *(one.content for one in added if one.special)}
        return cls(tuple(sorted((one for one in found if one.strip()), key=lambda one: (-len(one), one))))

    def within(self, text: str) -> str | None:
        """One that a text holds, if any."""
        if self._starts.isdisjoint(text):  # Gemma has 6,000 tokens, and hardly a tag has a bracket
            return None
        return next((token for token in self.tokens if token in text), None)

    @cached_property
    def _starts(self) -> frozenset[str]:
        return frozenset(token[0] for token in self.tokens)
