"""One question with the answers of several systems, in an order that hides whose they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pvit_ext.evaluation.sample import Sample

LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class Comparison:
    """What is ranked.

    Args:
        sample: that asks.
        answers: by system.
    """

    sample: Sample
    answers: Mapping[str, str]

    @cached_property
    def order(self) -> list[str]:
        """The systems as A, B, ... stand for them: by a hash of question and answers, for each question another."""
        return sorted(self.answers, key=lambda system: self._hash(system))

    @cached_property
    def mark(self) -> str:
        """A short hash of the answers in their order: a sheet is for these alone."""
        return self._hash(*(self.answers[system] for system in self.order))[:8]

    def letters(self) -> dict[str, str]:
        """The answers by letter."""
        return {letter: self.answers[system] for letter, system in zip(LETTERS, self.order, strict=False)}

    def by_system(self, ranks: Mapping[str, float]) -> dict[str, float]:
        """Ranks of letters as ranks of systems."""
        return {system: ranks[letter] for letter, system in zip(LETTERS, self.order, strict=False)}

    def _hash(self, *parts: str) -> str:
        told = "\0".join([self.sample.id, *sorted(self.answers.values()), *parts])
        return hashlib.sha256(told.encode()).hexdigest()
