"""What the comparison reports: one table on the terminal and on a Markdown page, a CSV file, and a plot."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from examples.compare.regions import KINDS, SMALL, is_small
from examples.quickstart.report import KINDS as ASKED
from examples.quickstart.report import is_right
from examples.quickstart.towers import Scenes
from examples.quickstart.world import Question, Scene
from pvit_ext.files import atomic_write

Result = dict[str, Any]
"""A row: plain numbers and text by column of the CSV file, None where an encoder does not take a kind."""
TITLES = {"box": "boxes", "mask": "masks", "point": "points"}
ACCURACIES = (*TITLES.values(), "small")
PAGE = Path(__file__).with_name("page.md")


def _accuracy(name: str, row: Result) -> str:
    return _percent(row[name])


COLUMNS: dict[str, Callable[[Result], str]] = {
    "encoder": lambda row: str(row["encoder"]),
    **{name: partial(_accuracy, name) for name in ACCURACIES},
    "tokens": lambda row: str(row["tokens"]),
    "parameters": lambda row: _short(row["parameters"]),
    "trained": lambda row: _short(row["trained"]),
    "ms an image": lambda row: _quantiles(row, "image"),
    "ms a region": lambda row: _quantiles(row, "region"),
    "samples/s": lambda row: f"{row['train_samples_per_second']:.0f}",
    "rate": lambda row: "-" if row["stage1_rate"] is None else f"{row['stage1_rate']:g}",
}


def score(scenes: Scenes, answers: dict[str, list[str]]) -> Result:
    """Accuracy 0..1 per kind of region, for small boxes, and for boxes by what was asked.

    Args:
        scenes: as they were asked about.
        answers: kind of region -> answers, scene by scene.
    """
    asked = [(question, scene) for scene, questions in scenes for question in questions]
    result: Result = {TITLES[kind]: _fraction(asked, answers.get(kind), lambda *_: True) for kind in KINDS}
    result["small"] = _fraction(asked, answers.get("box"), is_small)
    for what in ASKED:
        result[what] = _fraction(asked, answers.get("box"), partial(_asks, what))
    return result


def guess(scenes: Scenes) -> tuple[float, float]:
    """What the commonest answer to each kind of question would score, on all of them and on those about small boxes."""
    asked = [(question, scene) for scene, questions in scenes for question in questions]
    common = {what: Counter(q.answer for q, _ in asked if q.kind == what).most_common(1)[0][0] for what in ASKED}
    answers = [common[question.kind] for question, _ in asked]
    everything, small = _fraction(asked, answers, lambda *_: True), _fraction(asked, answers, is_small)
    return everything or 0.0, small or 0.0


def _asks(what: str, question: Question, _scene: Scene) -> bool:
    return question.kind == what


def _fraction(
    asked: Sequence[tuple[Question, Scene]],
    answers: Sequence[str] | None,
    counts: Callable[[Question, Scene], bool],
) -> float | None:
    if answers is None:
        return None
    right = [is_right(q, answer) for (q, scene), answer in zip(asked, answers, strict=True) if counts(q, scene)]
    return sum(right) / len(right) if right else None


def table(rows: Sequence[Result], markdown: bool = False) -> str:
    """One line per row, best on boxes first; what an encoder does not take is ``-``."""
    ordered = sorted(rows, key=lambda row: -(row["boxes"] or 0))
    cells = [list(COLUMNS), *([write(row) for write in COLUMNS.values()] for row in ordered)]
    if markdown:
        lines = ["| " + " | ".join(line) + " |" for line in cells]
        return "\n".join([lines[0], "|---" * len(COLUMNS) + "|", *lines[1:]])
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )


def write_csv(path: Path, rows: Sequence[Result]) -> None:
    """All numbers of all rows, with what they were made with."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[Result]:
    """Inverse of :func:`write_csv`."""
    with path.open(newline="", encoding="utf-8") as stream:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(stream)]


def draw(path: Path, rows: Sequence[Result], guessed: float) -> None:
    """Accuracies of every encoder by kind of region, and what a region costs it.

    Args:
        path: PNG to write.
        rows: one or more.
        guessed: accuracy of a guess, drawn as a line.
    """
    from matplotlib.figure import Figure

    ordered = sorted(rows, key=lambda row: row["boxes"] or 0)
    figure = Figure(figsize=(11, 1.6 + 0.55 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 1))
    heights = range(len(ordered))
    for number, (name, marker) in enumerate(zip(ACCURACIES, "os^x", strict=True)):
        shown = [
            (100 * row[name], height) for row, height in zip(ordered, heights, strict=True) if row[name] is not None
        ]
        left.plot(*zip(*shown, strict=True), marker, label=name, color=f"C{number}", markersize=8, clip_on=False)
    left.axvline(100 * guessed, color="grey", linestyle=":", label="guessing")
    left.set(xlim=(0, 100), xlabel="right answers to held-out questions, %", yticks=list(heights))
    left.set_yticklabels([f"{row['encoder']}\n{row['tokens']} tokens" for row in ordered])
    left.grid(axis="x", alpha=0.3)
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=5, frameon=False)
    right.barh(heights, [row["image_ms_p50"] for row in ordered], 0.35, align="edge", label="an image with one region")
    right.barh(heights, [row["region_ms_p50"] for row in ordered], -0.35, align="edge", label="each further region")
    right.set(xscale="log", xlabel="encoding, ms (median)")
    right.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=90, format="png")


def page(
    rows: Sequence[Result], guessed: tuple[float, float], counts: tuple[int, int], fractions: dict[str, list[float]]
) -> str:
    """The Markdown page, for the folder that has ``results.csv`` and ``results.png`` too.

    Args:
        rows: results.
        guessed: of :func:`guess`.
        counts: questions for each kind of region, and those of them about small boxes.
        fractions: of right digits and colours in training, of the CLIP and the RegionCLIP tower and of the projector.
    """
    one = rows[0]
    facts = {
        "table": table(rows, markdown=True),
        "questions": counts[0],
        "small": counts[1],
        "guess": _percent(guessed[0]),
        "guess_small": _percent(guessed[1]),
        "part": f"{100 * SMALL:g}",
        "clip": _percent(fractions["clip"][0]),
        "regionclip": _percent(fractions["regionclip"][0]),
        "projector": _percent(fractions["projector"][0]),
        "options": "\n".join(f"- {row['encoder']}: `{row['options']}`" for row in rows if row["options"] != "{}"),
    }
    return PAGE.read_text(encoding="utf-8").format(**{**one, **facts})


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _short(count: int) -> str:
    return f"{count / 1e6:.2f}M" if count >= 10_000 else str(count)


def _quantiles(row: Result, case: str) -> str:
    low, middle, high = (row[f"{case}_ms_p{percent}"] for percent in (10, 50, 90))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _value(text: str) -> Any:
    if not text:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (int, float)) else text
