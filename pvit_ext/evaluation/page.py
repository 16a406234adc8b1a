"""``report.html``: the tables, the confusion matrix, and images with drawn regions of the worst and of random cases."""

from __future__ import annotations

import html
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pvit_ext.data.html_page import jpeg_data_url, write_html_page
from pvit_ext.evaluation.judge.task import JudgedTask
from pvit_ext.evaluation.sample import Result
from pvit_ext.evaluation.summary import group_score, judge_lines, metric_rows, score_name, this_run
from pvit_ext.evaluation.task import Task
from pvit_ext.prompt import REGION_PLACEHOLDER
from pvit_ext.regions.drawing import draw_regions
from pvit_ext.regions.image import ImageError, load_image
from pvit_ext.regions.region import RegionError

CASES = 12
"""Of the worst, and as many random ones."""
MOST_CLASSES = 120
"""Of a confusion matrix that is shown."""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; } td, th { border: 1px solid #ddd; padding: .2em .6em; }
td.number { text-align: right; } .cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(20em, 1fr)); }
figure { margin: .8em; } img { max-width: 100%; } .wrong { color: #a00; } .right { color: #070; }
.scroll { overflow-x: auto; } .scroll th { font-weight: normal; } figcaption p { margin: .2em 0; }
"""


def write_page(path: Path, values: Mapping[str, Any], task: Task, results: Sequence[Result], seed: int) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        values: of :func:`~pvit_ext.evaluation.summary.summary`.
        task: that asked.
        results: of all samples.
        seed: of the choice of cases.
    """
    chosen = random.Random(seed)
    shuffled = chosen.sample(list(results), len(results))
    scored = values["main"] != ""
    worst = [one for one in sorted(shuffled, key=lambda one: one.judged.score) if scored and one.judged.score < 1][
        :CASES
    ]
    title = f"{values['task']}: {values['run'].get('model', 'stored answers')}"
    about = f"{values['about']}; {values['samples']:,} samples"
    parts = [f"<h1>{html.escape(title)}</h1><p>{html.escape(about)}</p>", _tables(values)]
    if values["confusion"] is not None:
        parts.append(_confusion(values["confusion"]))
    for heading, cases in (("Worst cases", worst), ("Random cases", chosen.sample(shuffled, min(CASES, len(results))))):
        if cases:
            figures = "\n".join(_figure(task, one, scored) for one in cases)
            parts.append(f'<h2>{heading}</h2><div class="cases">{figures}</div>')
    write_html_page(path, title, _STYLE, "\n".join(parts))


def _tables(values: Mapping[str, Any]) -> str:
    parts = [_table(["metric", this_run(values)], metric_rows(values, [], []))]
    parts += [f"<p>{html.escape(line)}</p>" for line in judge_lines(values)]
    for name, groups in values["groups"].items():
        rows = [[group, group_score(values, one["score"]), f"{one['samples']:,}"] for group, one in groups.items()]
        parts.append(f"<h2>By {html.escape(name)}</h2>" + _table([name, score_name(values, name), "samples"], rows))
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = [
        f"<tr><td>{html.escape(row[0])}</td>" + "".join(f'<td class="number">{cell}</td>' for cell in row[1:]) + "</tr>"
        for row in rows
    ]
    return f"<table><tr>{top}</tr>{''.join(lines)}</table>"


def _confusion(found: Mapping[str, Any]) -> str:
    """Rows are references; the darker, the more of a row."""
    if len(found["columns"]) > MOST_CLASSES:
        return f"<h2>Confusion</h2><p>Of {len(found['rows'])} classes: in metrics.json.</p>"
    head = "".join(f"<th>{html.escape(name)}</th>" for name in found["columns"])
    lines = []
    for name, counts in zip(found["rows"], found["counts"], strict=True):
        total = max(sum(counts), 1)
        cells = "".join(
            f'<td class="number" style="background: rgba(0, 90, 180, {0.6 * count / total:.2f})">{count or ""}</td>'
            for count in counts
        )
        lines.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
    table = f'<div class="scroll"><table><tr><th></th>{head}</tr>{"".join(lines)}</table></div>'
    return f"<h2>Confusion</h2><p>Rows are references, columns answers.</p>{table}"


def _figure(task: Task, result: Result, scored: bool) -> str:
    sample, judged = result.sample, result.judged
    earlier = [text for turn in sample.history for text in turn]
    question = _numbered([*earlier, task.prompt(sample)], sample.numbers())
    kind, worth = ("right" if judged.score == 1 else "wrong"), f" ({judged.score:.2f})"
    if not scored:
        kind, worth = "", ""
    lines = [
        f"<p>{html.escape(question)}</p>",
        f'<p class="{kind}">answer: {html.escape(result.prediction.answer)}{worth}</p>',
        _verdict(task, result),
        f"<p>reference: {html.escape(sample.reference)}</p>" if sample.reference else "",
        f"<p><small>{html.escape(sample.name)}</small></p>",
    ]
    return f"<figure>{_images(task, result)}<figcaption>{''.join(lines)}</figcaption></figure>"


def _verdict(task: Task, result: Result) -> str:
    said = result.judged.said
    return f"<p>verdict: {html.escape(said)}</p>" if isinstance(task, JudgedTask) and said else ""


def _numbered(texts: Sequence[str], numbers: Sequence[int]) -> str:
    """The last of the texts with the number of each of its regions, as they are drawn."""
    each = iter(numbers)
    return [re.sub(re.escape(REGION_PLACEHOLDER), lambda _: f"[{next(each)}]", text) for text in texts][-1]


def _images(task: Task, result: Result) -> str:
    try:
        regions = task.draw(result)
        parts = []
        for number, path in enumerate(result.sample.images):
            image = load_image(path)
            own = [one.resolve(image.size, result.sample.name) for one in regions if one.image == number]
            parts.append(f'<img src="{jpeg_data_url(draw_regions(image, own))}" alt="{html.escape(Path(path).name)}">')
    except (ImageError, RegionError, OSError) as error:
        return f'<p class="wrong">{html.escape(str(error))}</p>'
    return "".join(parts)
