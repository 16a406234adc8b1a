"""``metrics.json`` and ``metrics.md``: what was measured, and with what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pvit_ext.evaluation.measures import by_size
from pvit_ext.evaluation.sample import Result, Score
from pvit_ext.evaluation.task import Published, Task
from pvit_ext.files import atomic_write

SIZE = "size of region"


def with_scores(results: Sequence[Result], score: Score) -> list[Result]:
    """The results with the scores that only all answers together could give."""
    if not score.each:
        return list(results)
    pairs = zip(results, score.each, strict=True)
    return [replace(one, judged=replace(one.judged, score=value)) for one, value in pairs]


def summary(
    task_name: str, task: Task, results: Sequence[Result], score: Score, run: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that was measured, in plain JSON types.

    Args:
        task_name: as it is registered.
        task: that scores.
        results: of all samples, with their final scores.
        score: of them.
        run: what the answers were made with.
    """
    groups = {**score.groups, SIZE: by_size(results)}
    return {
        "task": task_name,
        "about": task.about,
        "main": score.main,
        "metrics": dict(score.metrics),
        "groups": {
            name: {group: {"score": value, "samples": count} for group, (value, count) in found.items()}
            for name, found in groups.items()
            if found
        },
        "confusion": None if score.confusion is None else asdict(score.confusion),
        "samples": len(results),
        "left_out": dict(task.left_out),
        "notes": list(score.notes),
        "published": [asdict(one) for one in task.published],
        "run": dict(run),
    }


def headline(values: Mapping[str, Any]) -> str:
    """One line for the terminal."""
    metrics = ", ".join(f"{name} {_shown(value)}" for name, value in values["metrics"].items())
    return f"{values['task']}, {values['samples']:,} samples: {metrics}"


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write ``metrics.json``."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_markdown(path: Path, values: Mapping[str, Any]) -> None:
    """Write ``metrics.md``."""
    with atomic_write(path) as temporary:
        temporary.write_text(markdown(values), encoding="utf-8")


def markdown(values: Mapping[str, Any]) -> str:
    """The tables of a summary.

    Args:
        values: of :func:`summary`.
    """
    lines = [f"# {values['task']}: {values['run'].get('model', 'stored answers')}", "", values["about"] + ".", ""]
    published = [Published(**one) for one in values["published"]]
    systems = list(dict.fromkeys(one.system for one in published))
    lines += table(["metric", "this run", *systems], _metric_rows(values["metrics"], published, systems))
    lines += [f"{values['samples']:,} samples."]
    lines += [f"{count:,} left out: {reason}." for reason, count in values["left_out"].items()]
    lines += values["notes"] + _sources(published) + [""]
    for name, groups in values["groups"].items():
        rows = [[group, _shown(one["score"]), f"{one['samples']:,}"] for group, one in groups.items()]
        lines += [f"## By {name}", "", *table([name, values["main"] if name == SIZE else "right", "samples"], rows)]
    lines += ["## Made with", "", *table(["", ""], [[key, _plain(one)] for key, one in values["run"].items()])]
    return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, and an empty line."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines] + [""]


def _metric_rows(
    metrics: Mapping[str, float], published: Sequence[Published], systems: Sequence[str]
) -> list[list[str]]:
    theirs = {(one.system, one.metric): one for one in published}
    rows = []
    for name, value in metrics.items():
        others = [theirs.get((system, name)) for system in systems]
        rows.append([name, _shown(value), *("" if one is None else _shown(one.value, one.verified) for one in others)])
    return rows


def _sources(published: Sequence[Published]) -> list[str]:
    sources = "; ".join(dict.fromkeys(one.source for one in published))
    star = " (*: from memory or at second hand)" if any(not one.verified for one in published) else ""
    return [f"Numbers of others: {sources}{star}."] if published else []


def _shown(value: float, verified: bool = True) -> str:
    return f"{100 * value:.2f}{'' if verified else '*'}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
