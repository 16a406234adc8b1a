"""``metrics.json`` and ``metrics.md``: what was measured, and with what."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pvit_ext.evaluation.measures import by_size
from pvit_ext.evaluation.sample import Result, Score
from pvit_ext.evaluation.task import Published, Task
from pvit_ext.files import atomic_write

SIZE = "size of region"
_NAMED = re.compile(r".* \((.+)\)")


def with_scores(results: Sequence[Result], score: Score) -> list[Result]:
    """The results with the scores that only all answers together could give."""
    if not score.each:
        return list(results)
    pairs = zip(results, score.each, strict=True)
    return [replace(one, judged=replace(one.judged, score=value)) for one, value in pairs]


def summary(
    task_name: str,
    task: Task,
    results: Sequence[Result],
    score: Score,
    run: Mapping[str, Any],
    judge: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything that was measured, in plain JSON types.

    Args:
        task_name: as it is registered.
        task: that scores.
        results: of all samples, with their final scores.
        score: of them.
        run: what the answers were made with.
        judge: of the answers, where there was one.
    """
    groups = {**score.groups, SIZE: by_size(results) if task.by_size else {}}
    return {
        "task": task_name,
        "about": task.about,
        "main": score.main,
        "metrics": dict(score.metrics),
        "as they are": list(score.as_they_are),
        "groups": {
            name: {group: {"score": value, "samples": count} for group, (value, count) in found.items()}
            for name, found in groups.items()
            if found
        },
        "confusion": None if score.confusion is None else asdict(score.confusion),
        "samples": len(results),
        "left_out": dict(task.left_out),
        "notes": list(score.notes),
        "judge": None if judge is None else dict(judge),
        "published": [asdict(one) for one in task.published],
        "run": dict(run),
    }


def headline(values: Mapping[str, Any]) -> str:
    """One line for the terminal."""
    metrics = ", ".join(
        f"{name} {shown(value, name in values['as they are'])}" for name, value in values["metrics"].items()
    )
    by = f", judged by {values['judge']['name']}" if values["judge"] else ""
    return f"{values['task']}, {values['samples']:,} samples{by}: {metrics or values['notes'][0]}"


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
    if values["metrics"]:
        lines += table(["metric", this_run(values), *systems], metric_rows(values, published, systems))
    lines += [f"{values['samples']:,} samples.", *judge_lines(values)]
    lines += [f"{count:,} left out: {reason}." for reason, count in values["left_out"].items()]
    lines += values["notes"] + _sources(published) + [""]
    for name, groups in values["groups"].items():
        rows = [[group, group_score(values, one["score"]), f"{one['samples']:,}"] for group, one in groups.items()]
        lines += [f"## By {name}", "", *table([name, score_name(values, name), "samples"], rows)]
    lines += ["## Made with", "", *table(["", ""], [[key, _plain(one)] for key, one in values["run"].items()])]
    return "\n".join(lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, and an empty line."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines] + [""]


def judge_lines(values: Mapping[str, Any]) -> list[str]:
    """What is to be said about the judge, a sentence each.

    Args:
        values: of :func:`summary`.
    """
    if not (judge := values["judge"]):
        return []
    lines = [f"Judged by {judge['name']}, with a prompt that is {judge['prompt']}: {judge['questions']:,} questions."]
    if count := judge["without a readable reply"]:
        why = "; ".join(f"{reason} ({times:,})" for reason, times in judge["why"].items())
        rule = "scored as the benchmark's script does" if judge["scored by the script's rule"] else "left out"
        lines.append(f"{count:,} questions without a readable reply of the judge, {rule}: {why}.")
    if count := judge["samples without a verdict"]:
        lines.append(f"{count:,} samples without a verdict, in no score.")
    return lines


def metric_rows(values: Mapping[str, Any], published: Sequence[Published], systems: Sequence[str]) -> list[list[str]]:
    """A row for each metric: its name, this run, and each of the systems.

    Args:
        values: of :func:`summary`.
        published: numbers of others.
        systems: columns.
    """
    theirs = {(one.system, one.metric): one for one in published}
    rows = []
    for name, value in values["metrics"].items():
        plain = name in values["as they are"]
        others = [theirs.get((system, name)) for system in systems]
        said = ["" if one is None else f"{shown(one.value, plain)}{'' if one.verified else '*'}" for one in others]
        rows.append([name, shown(value, plain), *said])
    return rows


def this_run(values: Mapping[str, Any]) -> str:
    """The head of this run's metrics; with the judge's name, where they are a judge's."""
    return f"this run, judge {values['judge']['name']}" if values["judge"] else "this run"


def score_name(values: Mapping[str, Any], group: str) -> str:
    """The head of the scores of a group; one by another metric than the main one names it: ``kind (S-IoU)``."""
    if (named := _NAMED.fullmatch(group)) and named[1] in values["metrics"]:
        return named[1]
    return values["main"] if group == SIZE or values["judge"] or values["main"] in values["as they are"] else "right"


def group_score(values: Mapping[str, Any], score: float) -> str:
    """A score of a group, as the main metric is shown."""
    return shown(score, values["main"] in values["as they are"])


def _sources(published: Sequence[Published]) -> list[str]:
    sources = "; ".join(dict.fromkeys(one.source for one in published))
    star = " (*: from memory or at second hand)" if any(not one.verified for one in published) else ""
    return [f"Numbers of others: {sources}{star}."] if published else []


def shown(value: float, as_it_is: bool = False) -> str:
    """A metric for people: percent, but for those that are no fractions."""
    return f"{value if as_it_is else 100 * value:.2f}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
