"""What rankings say: mean places, who is first, and who wins against whom."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from pvit_ext.evaluation.measures import mean

Places = Mapping[str, float]
"""The place of each system on one question, 1 the best."""
RESAMPLES = 2000


def mean_places(rankings: Sequence[Places]) -> dict[str, float]:
    """The mean place of each system, the best first."""
    systems = {system: mean([one[system] for one in rankings]) for system in rankings[0]}
    return dict(sorted(systems.items(), key=lambda pair: pair[1]))


def share_first(rankings: Sequence[Places], system: str) -> float:
    """How often a system is first; of several that are, each has its share."""
    return mean([(one[system] == min(one.values())) / list(one.values()).count(min(one.values())) for one in rankings])


def wins(rankings: Sequence[Places], system: str, other: str) -> float:
    """How often a system is before another; equal places are half a win."""
    return mean([(one[system] < one[other]) + (one[system] == one[other]) / 2 for one in rankings])


def interval(rankings: Mapping[str, Sequence[Places]], system: str, seed: int = 0) -> tuple[float, float]:
    """Bounds of the mean place in 95 % of samples of as many questions, drawn with replacement.

    Args:
        rankings: of each question, one a person.
        system: whose place.
        seed: of the draws.
    """
    values = np.array([[sum(one[system] for one in some), len(some)] for some in rankings.values()], float)  # (N, 2)
    drawn = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    sums = values[drawn].sum(1)  # (RESAMPLES, 2)
    low, high = np.percentile(sums[:, 0] / sums[:, 1], [2.5, 97.5])
    return float(low), float(high)


def agreement(rankings: Mapping[str, Sequence[Places]]) -> float | None:
    """Of pairs of answers that two people put in an order, the share that both put in the same; None without any.

    Args:
        rankings: of each question, one a person.
    """
    same: list[float] = []
    for some in rankings.values():
        for first, second in itertools.combinations(some, 2):
            for a, b in itertools.combinations(first, 2):
                product = (first[a] - first[b]) * (second[a] - second[b])
                same += [float(product > 0)] if product else []
    return mean(same) if same else None
