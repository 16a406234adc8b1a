"""The jobs of a run: every strategy on every scene that it can use, in the order of the file."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from pvit_ext.data.generate.scene import Scene
from pvit_ext.data.generate.strategies import STRATEGIES, Job, NotApplicable, make_job


class Jobs:
    """Iterated any number of times, always with the same result.

    Args:
        scenes: read anew by each pass.
        strategies: names of those wanted.
        seed: of the choice of regions.
        with_image: the model sees the images.

    Raises:
        ValueError: for an unknown strategy.

    Attributes:
        skipped: of the last pass, how many scenes each strategy could not use, by (strategy, reason).
    """

    def __init__(self, scenes: Iterable[Scene], strategies: Sequence[str], seed: int, with_image: bool) -> None:
        if unknown := [name for name in strategies if name not in STRATEGIES]:
            raise ValueError(f"unknown strategy {unknown[0]!r}; known: {', '.join(STRATEGIES)}")
        self.scenes, self.strategies = scenes, tuple(dict.fromkeys(strategies))
        self.seed, self.with_image = seed, with_image
        self.skipped: Counter[tuple[str, str]] = Counter()

    def __iter__(self) -> Iterator[Job]:
        skipped: Counter[tuple[str, str]] = Counter()
        self.skipped = skipped
        for scene in self.scenes:
            for strategy in self.strategies:
                try:
                    job = make_job(scene, strategy, self.seed, self.with_image)
                except NotApplicable as error:
                    skipped[strategy, str(error)] += 1
                    continue
                yield job

    def sample(self, count: int) -> list[Job]:
        """Some jobs from all over the file, as many of each strategy as of any other where it has them."""
        kept: dict[str, list[tuple[bytes, int, Job]]] = {name: [] for name in self.strategies}
        for index, job in enumerate(self):
            found = kept[job.strategy]
            found.append((hashlib.sha256(f"{self.seed} {job.name}".encode()).digest(), index, job))
            if len(found) > 2 * count + 100:
                found[:] = heapq.nsmallest(count, found)
        ranked = [sorted(found) for found in kept.values()]
        in_turn = [found[rank] for rank in range(count) for found in ranked if rank < len(found)]
        return [job for _, _, job in sorted(in_turn[:count], key=lambda one: one[1])]
