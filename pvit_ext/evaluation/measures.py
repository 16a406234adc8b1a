"""Measures over results: accuracy, balanced accuracy, confusion, and any measure by the size of the region."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from pvit_ext.evaluation.sample import Confusion, Result

SIZES = {"small": 32.0**2, "medium": 96.0**2, "large": float("inf")}
"""Name -> area in pixels of the original image that it ends below; COCO's."""
OTHER = "(other)"
Groups = Mapping[str, tuple[float, int]]


def mean(values: Sequence[float]) -> float:
    """The mean; 0 of nothing."""
    return sum(values) / len(values) if values else 0.0


def mean_score(results: Sequence[Result]) -> float:
    """The mean of the samples' scores: the accuracy, where they are 0 or 1."""
    return mean([result.judged.score for result in results])


def grouped(results: Sequence[Result], key: Callable[[Result], str | None]) -> dict[str, tuple[float, int]]:
    """The mean score and the number of samples of each group, in the order in which groups occur.

    Args:
        results: of all samples.
        key: the group of a sample; None: none.
    """
    found: dict[str, list[float]] = {}
    for result in results:
        if (name := key(result)) is not None:
            found.setdefault(name, []).append(result.judged.score)
    return {name: (mean(scores), len(scores)) for name, scores in found.items()}


def by_size(results: Sequence[Result]) -> dict[str, tuple[float, int]]:
    """The mean score by the smallest region of each sample; empty where no area is known.

    Args:
        results: with areas of the regions that were shown, or of what was asked for in ``sample.extra``.
    """

    def size(result: Result) -> str | None:
        areas = result.prediction.areas or result.sample.extra.get("areas")
        return next(name for name, end in SIZES.items() if min(areas) < end) if areas else None

    found = grouped(results, size)
    return {name: found[name] for name in SIZES if name in found}


def per_class(results: Sequence[Result], classes: Sequence[str]) -> dict[str, tuple[float, int]]:
    """The recall of each class and how many samples have it as reference.

    Args:
        results: whose ``sample.extra`` has the ``class`` of the reference.
        classes: in the order of the result; those without a sample are not in it.
    """
    found = grouped(results, lambda result: str(result.sample.extra["class"]))
    return {name: found[name] for name in classes if name in found}


def balanced(groups: Groups) -> float:
    """The mean over groups, each counted once: balanced accuracy, where they are classes."""
    return mean([value for value, _ in groups.values()])


def confusion(results: Sequence[Result], classes: Sequence[str]) -> Confusion:
    """Counts of reference and answer; what names no class is :data:`OTHER`.

    Args:
        results: whose ``sample.extra`` has the ``class`` of the reference.
        classes: rows and columns.
    """
    counts = Counter((str(result.sample.extra["class"]), result.judged.said) for result in results)
    totals: Counter[str] = Counter()
    for (row, _), count in counts.items():
        totals[row] += count
    rows = [name for name in classes if name in totals]
    table = [[counts[row, column] for column in classes] for row in rows]
    table = [[*line, totals[row] - sum(line)] for row, line in zip(rows, table, strict=True)]
    return Confusion(rows, [*classes, OTHER], table)
