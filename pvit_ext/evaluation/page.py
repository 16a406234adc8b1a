"""``report.html``: the tables, the confusion matrix, and images with drawn regions of the worst and of random cases."""

from __future__ import annotations

import base64
import html
import io
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pvit_ext.evaluation.sample import Result
from pvit_ext.evaluation.task import Task
from pvit_ext.files import atomic_write
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
    worst = [one for one in sorted(shuffled, key=lambda one: one.judged.score) if one.judged.score < 1][:CASES]
    title = html.escape(f"{values['task']}: {values['run'].get('model', 'stored answers')}")
    parts = [f"<h1>{title}</h1><p>{html.escape(values['about'])}; {values['samples']:,} samples</p>", _tables(values)]
    if values["confusion"] is not None:
        parts.append(_confusion(values["confusion"]))
    for heading, cases in (("Worst cases", worst), ("Random cases", chosen.sample(shuffled, min(CASES, len(results))))):
        if cases:
            figures = "\n".join(_figure(task, one) for one in cases)
            parts.append(f'<h2>{heading}</h2><div class="cases">{figures}</div>')
    text = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        "</head>\n<body>" + "\n".join(parts) + "\n</body></html>\n"
    )
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="replace")


def _tables(values: Mapping[str, Any]) -> str:
    parts = [_table(["metric", ""], [[name, f"{100 * value:.2f}"] for name, value in values["metrics"].items()])]
    for name, groups in values["groups"].items():
        rows = [[group, f"{100 * one['score']:.2f}", f"{one['samples']:,}"] for group, one in groups.items()]
        parts.append(f"<h2>By {html.escape(name)}</h2>" + _table([name, "right", "samples"], rows))
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


def _figure(task: Task, result: Result) -> str:
    sample, judged = result.sample, result.judged
    earlier = [text for turn in sample.history for text in turn]
    question = _numbered([*earlier, task.prompt(sample)], sample.numbers())
    kind = "right" if judged.score == 1 else "wrong"
    return (
        f"<figure>{_images(task, result)}<figcaption><p>{html.escape(question)}</p>"
        f'<p class="{kind}">answer: {html.escape(result.prediction.answer)} ({judged.score:.2f})</p>'
        f"<p>reference: {html.escape(sample.reference)}</p><p><small>{html.escape(sample.name)}</small></p>"
        "</figcaption></figure>"
    )


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
            parts.append(f'<img src="{_data_url(draw_regions(image, own))}" alt="{html.escape(Path(path).name)}">')
    except (ImageError, RegionError, OSError) as error:
        return f'<p class="wrong">{html.escape(str(error))}</p>'
    return "".join(parts)


def _data_url(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
