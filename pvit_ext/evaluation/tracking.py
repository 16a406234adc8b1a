"""An evaluation in W&B: one run for an output folder, which the same command goes on with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pvit_ext.evaluation.summary import group_score, metric_rows, score_name, this_run
from pvit_ext.evaluation.task import Published
from pvit_ext.training.tracking import go_offline_without_key
from pvit_ext.training.wandb_run import run_id

PROJECT = "pvit-ext"


def report(values: Mapping[str, Any], out: Path) -> None:
    """Send metrics, groups, what they were made with, and the page.

    Args:
        values: of :func:`~pvit_ext.evaluation.summary.summary`.
        out: folder with ``report.html``.
    """
    import wandb

    go_offline_without_key()
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=run_id(out),
        resume="allow",
        job_type="eval",
        name=os.environ.get("WANDB_NAME", f"{values['task']}: {values['run'].get('model', 'stored answers')}"),
        config={key: values[key] for key in ("task", "judge", "samples", "left_out", "run")},
    )
    published = [Published(**one) for one in values["published"]]
    systems = list(dict.fromkeys(one.system for one in published))
    logged: dict[str, Any] = {f"{values['task']}/{name}": value for name, value in values["metrics"].items()}
    logged["metrics"] = _table(["metric", this_run(values), *systems], metric_rows(values, published, systems))
    for name, groups in values["groups"].items():
        rows = [[group, group_score(values, one["score"]), one["samples"]] for group, one in groups.items()]
        logged[f"by {name}"] = _table([name, score_name(values, name), "samples"], rows)
    with (out / "report.html").open(encoding="utf-8") as page:
        run.log({**logged, "report": wandb.Html(page.read(), inject=False)})
    run.finish()


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    import wandb

    return wandb.Table(columns=list(columns), data=[list(row) for row in rows])
