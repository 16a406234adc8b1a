"""What the experiment leaves: a table, ``metrics.json``, a confusion matrix, and drawings of answers."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.photographs.answered import Answered, read_answered
from examples.photographs.arms import ALIGNED, ARMS
from examples.photographs.data import Box, Photograph
from examples.photographs.fair import SEVERAL
from pvit_ext.evaluation.identity import versions
from pvit_ext.files import atomic_write
from pvit_ext.regions.image import load_image

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Row of the table -> seed -> what ``pvit-ext eval own`` measured, and seconds."""
COLUMNS = {"accuracy %": "accuracy", "balanced %": "balanced accuracy"}
_OTHERS = {
    "majority": "the most frequent answer, always",
    "photograph": "linear probe on the whole photograph, no language model",
    "probe": "linear probe on the crops, no language model",
}
_SHOWN = 6


def title(row: str) -> str:
    """Title of a row of the table."""
    arm = ARMS.get(row.removesuffix(ALIGNED))
    if arm is None:
        return _OTHERS[row]
    return f"{arm.title}, stage {1 if row.endswith(ALIGNED) else 2}" if arm.has_tokens else arm.title


def table(results: Results) -> str:
    """Markdown: per cent, the mean over seeds and their standard deviation; what knows least stands first.

    Photographs with several kinds have columns of their own where there are others too.
    """
    every = [one for seeds in results.values() for one in seeds.values()]
    parts = [SEVERAL] if any(0 < one[SEVERAL]["samples"] < one["samples"] for one in every) else []
    names = [*COLUMNS, *(f"{part}: {name}" for part in parts for name in COLUMNS)]
    lines = [f"| arm | seeds | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    rows = ["majority", "photograph", *(row for name in ARMS for row in (f"{name}{ALIGNED}", name)), "probe"]
    for row in rows:
        if found := list(results.get(row, {}).values()):
            wanted = [(part, key) for part in ("metrics", *parts) for key in COLUMNS.values()]
            cells = [_mean([one[part][key] for one in found]) for part, key in wanted]
            lines.append(f"| {title(row)} | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def write_metrics(path: Path, results: Results, made_with: Mapping[str, Any]) -> None:
    """Scores, recalls and times by row and seed, and what they were made with."""
    kept = {
        row: {
            str(seed): {
                "metrics": one["metrics"],
                SEVERAL: one[SEVERAL],
                "recall": {kind: found["score"] for kind, found in one["groups"]["class"].items()},
                "questions": one["samples"],
                "data sha256": one["run"]["data sha256"],
                "seconds": one["seconds"],
            }
            for seed, one in seeds.items()
        }
        for row, seeds in results.items()
    }
    content = {"made_with": {**made_with, "versions": versions()}, "results": kept}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def draw_confusion(path: Path, found: Mapping[str, Any]) -> None:
    """Draw the confusion matrix: rows are right answers, columns given ones.

    Args:
        path: PNG to write.
        found: ``rows``, ``columns`` and ``counts``.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axis = figure.subplots()
    counts, most = found["counts"], max(map(max, found["counts"]))
    axis.imshow(counts, cmap="Blues")
    axis.set_xticks(range(len(found["columns"])), found["columns"], rotation=60, ha="right")
    axis.set_yticks(range(len(found["rows"])), found["rows"])
    axis.set_xlabel("answer")
    axis.set_ylabel("right answer")
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            if count:
                colour = "white" if count > most / 2 else "black"
                axis.text(column, row, count, ha="center", va="center", color=colour)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


def draw_answers(path: Path, images: Path, photographs: Sequence[Photograph], predictions: Path) -> None:
    """Draw regions with right answers above and with wrong ones below, chosen by lot, always the same.

    Args:
        path: PNG to write.
        images: folder of the photographs.
        photographs: that were asked about, in that order.
        predictions: of the evaluation.
    """
    from matplotlib.figure import Figure

    rows: dict[bool, list[Answered]] = {True: [], False: []}
    for one in read_answered(photographs, predictions):
        rows[one.is_right].append(one)
    figure = Figure(figsize=(15, 5.6), layout="constrained")
    axes = figure.subplots(2, _SHOWN)
    for line, right in zip(axes, (True, False), strict=True):
        chosen = random.Random(0).sample(rows[right], min(_SHOWN, len(rows[right])))
        for axis in line:
            axis.set_axis_off()
        for axis, one in zip(line, chosen, strict=False):
            text = one.answer if right else f"{one.answer or '(nothing)'}, not {one.kind}"
            _draw_answer(axis, images / one.photograph.image, one.box, text, right)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png")


def _draw_answer(axis: Any, image: Path, box: Box, text: str, right: bool) -> None:
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = box
    axis.imshow(load_image(image))
    axis.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, edgecolor="cyan", linewidth=2))
    axis.set_title(text, fontsize=11, color="tab:green" if right else "tab:red")


def _mean(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"
