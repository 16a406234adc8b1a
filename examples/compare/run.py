"""Runs the comparison: the base once, then row after row, then table, CSV, plot and page."""

from __future__ import annotations

import json
import logging
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from examples.compare import report
from examples.compare.base import Base, Budget
from examples.compare.measure import REPEATS
from examples.compare.regions import SIDES, is_small
from examples.compare.rows import Row, all_rows, pick_rows
from examples.compare.train import BATCH, Run, run_row
from pvit_ext.files import atomic_write

BUDGETS = {"full": 1.0, "small": 0.1}


def compare(
    encoders: str | None = None,
    budget: str = "full",
    output: Path = Path("runs/compare"),
    pages: Path | None = None,
    fresh: bool = False,
    seed: int = 0,
) -> int:
    """Train and measure rows that are not there yet, then report all rows that are.

    Args:
        encoders: names of rows, comma-separated; default all.
        budget: ``full``, ``small``, or a part of the full one such as ``0.02``: scenes and steps.
        output: base, checkpoints and logs; each budget has a folder of its own in it.
        pages: where ``README.md``, ``results.csv`` and ``results.png`` go; default beside the rows.
        fresh: train the chosen rows again.
        seed: of scenes and regions.

    Returns:
        Exit status, 1 when a row failed.

    Raises:
        ValueError: for an unknown encoder or budget.
    """
    logging.getLogger("transformers").setLevel(logging.ERROR)
    chosen, scale = pick_rows(encoders), _scale(budget)
    folder = output / f"{scale:g}"
    settings = Budget(seed=seed).scaled(scale)
    base = Base(folder / "base", settings)
    fractions = base.build()
    run = Run(base.folder, folder, settings, base.scenes, base.held_out, fresh)
    failed = [row.name for row in chosen if not _finish(row, run, scale)]
    rows = [json.loads(path.read_text("utf-8")) for row in all_rows() if (path := _result(row, run)).is_file()]
    if rows:
        write_report(pages or folder, rows, run, fractions)
    for name in failed:
        print(f"{name} failed, see above; the other rows are kept: the same command tries it again")
    return 1 if failed else 0


def write_report(folder: Path, rows: list[report.Result], run: Run, fractions: dict[str, list[float]]) -> None:
    """Print the table; write the CSV file, the plot and the page."""
    asked = [is_small(question, scene) for scene, questions in run.held_out for question in questions]
    guessed = report.guess(run.held_out)
    folder.mkdir(parents=True, exist_ok=True)
    report.write_csv(folder / "results.csv", rows)
    report.draw(folder / "results.png", rows, guessed[0])
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(report.page(rows, guessed, (len(asked), sum(asked)), fractions), encoding="utf-8")
    print(f"\n{len(asked)} questions for each kind of region, {sum(asked)} about small boxes, % right")
    print(f"\n{report.table(rows)}\n")
    print(f"Guessing scores {100 * guessed[0]:.1f}. README.md, results.csv and results.png are in {folder}.")


def _finish(row: Row, run: Run, scale: float) -> bool:
    """Run one row and keep its result; a recipe that fails says why and leaves the others alone."""
    try:
        done = run_row(row, run)
    except RuntimeError as error:
        print(f"{row.name}: {error}")
        return False
    settings = run.settings
    made_with = {
        "budget": scale,
        "seed": settings.seed,
        "train_scenes": settings.train_scenes,
        "stage1_epochs": settings.stage1_epochs,
        "stage2_epochs": settings.stage2_epochs,
        "stage2_rate": settings.stage2_rate,
        "batch": BATCH,
        "smallest_side": SIDES[0],
        "largest_side": SIDES[1],
        "repeats": REPEATS,
    }
    answers = done.pop("answers")
    result = {"encoder": row.name, **report.score(run.held_out, answers), **done, **made_with, **_machine()}
    with atomic_write(_result(row, run)) as temporary:
        temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return True


def _result(row: Row, run: Run) -> Path:
    return run.folder / row.name / "result.json"


def _scale(budget: str) -> float:
    try:
        scale = BUDGETS.get(budget) or float(budget)
    except ValueError:
        scale = 0.0
    if not 0 < scale <= 1:
        raise ValueError(f"--budget {budget!r}: {', '.join(BUDGETS)}, or a part of the full one above 0 and up to 1")
    return scale


def _machine() -> dict[str, Any]:
    """Device and versions."""
    versions = {name.replace("-", "_"): version(name) for name in ("torch", "transformers", "pvit-ext")}
    return {"device": _device(), "threads": os.cpu_count(), "python": platform.python_version(), **versions}


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
