"""Choices that are the same for the same seed and names, on any machine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

ItemT = TypeVar("ItemT")


def pick(choices: Sequence[ItemT], seed: int, *names: object) -> ItemT:
    """One of several texts or other things, always the same for the same seed and names.

    Args:
        choices: one or more.
        seed: of the conversion.
        names: of what it is for, such as the image's item and the object's index.
    """
    return choices[draw(seed, *names) % len(choices)]


def draw(seed: int, *names: object) -> int:
    """64 bits, always the same for the same seed and names."""
    digest = hashlib.blake2b(repr((seed, *names)).encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


@dataclass(frozen=True)
class Choice:
    """Chooses for one task and one image.

    Args:
        seed: of the conversion.
        version: of the task's templates: when they change, the same seed gives other questions.
        item: the source's name of the image.
    """

    seed: int
    version: int
    item: str

    def of(self, choices: Sequence[ItemT], *names: object) -> ItemT:
        """One of several; ``names`` say what it is for."""
        return pick(choices, self.seed, self.version, self.item, *names)

    def chance(self, *names: object) -> bool:
        """Heads or tails."""
        return bool(draw(self.seed, self.version, self.item, *names) & 1)

    def order(self, items: Sequence[ItemT], *names: object) -> list[ItemT]:
        """The same items in another order."""
        keys = [draw(self.seed, self.version, self.item, *names, number) for number in range(len(items))]
        return [items[number] for number in sorted(range(len(items)), key=keys.__getitem__)]
