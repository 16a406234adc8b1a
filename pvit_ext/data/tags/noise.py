"""Tags as a worse tagger would give them, drawn anew for each sample and epoch of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TagNoise:
    """Augmentation of tags, so that a model learns how far to rely on them; by default there is none.

    Args:
        drop: chance of each tag to be missing.
        wrong: chance, for each tag, that a wrong one joins the list, at a place that is drawn: no place tells it.
        shuffle: put them into another order.
        vocabulary: that wrong tags are drawn from.

    Raises:
        ValueError: for a chance that is none.
    """

    drop: float = 0.0
    wrong: float = 0.0
    shuffle: bool = False
    vocabulary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (("drop", self.drop), ("wrong", self.wrong)):
            if not 0 <= value <= 1:
                raise ValueError(f"the chance of a tag to be {name} is {value}: give 0 to 1")

    @property
    def changes(self) -> bool:
        """Whether any tags become others."""
        return bool(self.drop or self.wrong or self.shuffle)

    def __call__(self, tags: Sequence[str], draw: np.random.Generator) -> list[str]:
        """The tags of one sample in one epoch.

        Args:
            tags: of the image, as :func:`~pvit_ext.data.tags.tags.clean_tags` gives them.
            draw: of the sample and epoch.
        """
        kept = [tag for tag in tags if draw.random() >= self.drop] if self.drop else list(tags)
        joined = self._wrong(tags, int(draw.binomial(len(tags), self.wrong)), draw) if self.wrong else []
        if not self.shuffle:
            return _among(kept, joined, draw)
        both = kept + joined
        return [both[number] for number in draw.permutation(len(both))]

    def _wrong(self, tags: Sequence[str], count: int, draw: np.random.Generator) -> list[str]:
        """Tags of the vocabulary that the image does not have, as many as there are."""
        own = {tag.casefold() for tag in tags}
        others = [tag for tag in self.vocabulary if tag.casefold() not in own]
        if not others:
            return []
        return [others[number] for number in draw.choice(len(others), min(count, len(others)), replace=False)]


def _among(tags: list[str], others: list[str], draw: np.random.Generator) -> list[str]:
    """Others at drawn places among tags, which keep their order."""
    if not others:
        return tags
    count = len(tags) + len(others)
    places = {*draw.choice(count, len(others), replace=False).tolist()}
    own, joined = iter(tags), iter(others)
    return [next(joined if place in places else own) for place in range(count)]
