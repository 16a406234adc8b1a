"""What the experiment leaves: two tables, ``metrics.json`` and a drawing."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.lion.arms import ARMS, CLAIMS, NONE, Claim
from examples.lion.tasks import TASKS
from pvit_ext.evaluation.identity import versions
from pvit_ext.files import atomic_write

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Arm -> seed -> scores and seconds."""
TITLES = {"image": "image level, F1 %", "region": "region level, accuracy %"}
SMALL = 0.01
"""A difference, and a deviation of seeds, that counts as none."""


def scores_table(results: Results) -> str:
    """Markdown: per arm and quality of tags the mean over seeds and their standard deviation, in per cent."""
    lines = [f"| arm | tags | seeds | {' | '.join(TITLES.values())} |", "|---|---|---|---|---|"]
    for name, arm in ARMS.items():
        seeds = results.get(name, {})
        for quality in arm.qualities if seeds else ():
            cells = [_mean([one["scores"][quality][task] for one in seeds.values()]) for task in TASKS]
            lines.append(f"| {arm.title} | {quality} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def claims_table(results: Results) -> str:
    """Markdown: per claim and task the difference in points, over seeds that have both arms, and whether it shows."""
    lines = ["| claim | score | difference, points | by seed | shows |", "|---|---|---|---|---|"]
    for claim in CLAIMS:
        for task in claim.tasks:
            if found := differences(results, claim, task):
                by_seed = ", ".join(f"{100 * one:+.1f}" for one in found)
                shows = "yes" if holds(found, claim) else "no"
                lines.append(f"| {claim.text} | {task} | {_mean(found, '+')} | {by_seed} | {shows} |")
    return "\n".join(lines)


def differences(results: Results, claim: Claim, task: str) -> list[float]:
    """By how much one arm is better, for each seed that has both."""
    (better, first), (worse, second) = claim.better, claim.worse
    seeds = sorted(results.get(better, {}).keys() & results.get(worse, {}).keys())
    pairs = [(results[better][seed]["scores"][first], results[worse][seed]["scores"][second]) for seed in seeds]
    return [one[task] - other[task] for one, other in pairs]


def holds(found: Sequence[float], claim: Claim) -> bool:
    """Whether seeds show a claim: all have its sign, and the mean lies beyond their standard deviation and a point.

    A claim of no difference holds where neither mean nor deviation is more than a point.
    """
    mean, deviation = statistics.mean(found), statistics.stdev(found) if len(found) > 1 else 0.0
    if claim.no_difference:
        return abs(mean) <= SMALL and deviation <= SMALL
    return min(found) > 0 and mean > max(SMALL, deviation)


def write_report(folder: Path, results: Results, made_with: Mapping[str, Any]) -> str:
    """Write ``metrics.json``, ``table.md`` and ``lion.png``; returns the tables."""
    kept = {name: {str(seed): _numbers(one) for seed, one in seeds.items()} for name, seeds in results.items()}
    content = {"made_with": {**made_with, "versions": versions()}, "results": kept}
    tables = f"{scores_table(results)}\n\n{claims_table(results)}\n"
    with atomic_write(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    with atomic_write(folder / "table.md") as temporary:
        temporary.write_text(tables, encoding="utf-8")
    draw(folder / "lion.png", results)
    return tables


def draw(path: Path, results: Results) -> None:
    """Draw the scores of each arm: a bar for the mean, a dot for each seed.

    Args:
        path: PNG to write.
        results: of one arm or more.
    """
    from matplotlib.figure import Figure

    rows = [(name, quality) for name, arm in ARMS.items() if name in results for quality in arm.qualities]
    figure = Figure(figsize=(12, 1.4 + 0.42 * len(rows)), layout="constrained")
    for number, (axis, task) in enumerate(zip(figure.subplots(1, len(TASKS), sharey=True), TASKS, strict=True)):
        for height, (name, quality) in enumerate(rows):
            values = [100 * one["scores"][quality][task] for one in results[name].values()]
            axis.barh(height, statistics.mean(values), 0.6, color=f"C{number}", alpha=0.5)
            axis.plot(values, [height] * len(values), "o", color=f"C{number}", markersize=5)
        axis.set(xlim=(0, 100), xlabel=TITLES[task], yticks=range(len(rows)))
        axis.set_yticklabels([ARMS[name].title if quality == NONE else f"{quality} tags" for name, quality in rows])
        axis.grid(axis="x", alpha=0.3)
    figure.axes[0].invert_yaxis()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


def _numbers(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"scores": one["scores"], "seconds": one["seconds"]}


def _mean(values: Sequence[float], sign: str = "") -> str:
    mean = f"{100 * statistics.mean(values):{sign}.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"
