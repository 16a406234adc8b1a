"""Precision and recall of a tagger against the classes that are known to be in each image."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass


@dataclass(frozen=True)
class TagScores:
    """Counts over all images.

    Args:
        right: tags that are true.
        wrong: tags that are not.
        missed: classes of an image without a tag.
    """

    right: int
    wrong: int
    missed: int

    @classmethod
    def of(cls, pairs: Iterable[tuple[Set[str], Set[str]]]) -> TagScores:
        """Count pairs of (tags, truth), one for each image."""
        right = wrong = missed = 0
        for tags, truth in pairs:
            right, wrong, missed = right + len(tags & truth), wrong + len(tags - truth), missed + len(truth - tags)
        return cls(right, wrong, missed)

    @property
    def precision(self) -> float:
        """The part of the tags that is true; nan without tags."""
        return self.right / (self.right + self.wrong) if self.right + self.wrong else float("nan")

    @property
    def recall(self) -> float:
        """The part of the classes that has a tag; nan without classes."""
        return self.right / (self.right + self.missed) if self.right + self.missed else float("nan")
