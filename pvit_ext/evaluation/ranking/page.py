"""A page to rank answers on: each question with its image, the answers by letter, and a button that saves the sheet.

Nothing in it says whose an answer is. It needs no network.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

from pvit_ext.data.html_page import jpeg_data_url, mark_regions, write_html_page
from pvit_ext.evaluation.ranking.comparison import LETTERS, Comparison
from pvit_ext.evaluation.ranking.sheet import ITEM, MARK
from pvit_ext.regions.drawing import draw_regions
from pvit_ext.regions.image import load_image, reading

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; }
article { display: flex; gap: 1.5em; border-top: 1px solid #ccc; padding: 1.2em 0; flex-wrap: wrap; }
article > div { flex: 1; min-width: 20em; } img { max-width: 100%; } h2 { font-size: 1.05em; margin: 0 0 .5em; }
.mark { color: #fff; border-radius: .3em; padding: 0 .35em; } td { vertical-align: top; padding: .25em .5em; }
.bar { position: sticky; top: 0; background: #fff; padding: .5em 0; } article.done h2 { color: #070; }
"""
_SCRIPT = """
const head = %s, name = %s;
const boxes = [...document.querySelectorAll("article")];
const ranks = box => [...box.querySelectorAll("select")].map(one => one.value);
function note() {
  for (const box of boxes) box.classList.toggle("done", ranks(box).every(value => value));
  document.getElementById("count").textContent = boxes.filter(box => box.classList.contains("done")).length;
}
document.addEventListener("change", note);
document.getElementById("save").addEventListener("click", () => {
  const rows = [head, ...boxes.map(box => [box.dataset.item, box.dataset.mark, ...ranks(box)])];
  const text = rows.map(row => row.map(cell => '"' + cell.replaceAll('"', '""') + '"').join(",")).join("\\r\\n");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text + "\\r\\n"], {type: "text/csv"}));
  link.download = name;
  link.click();
});
note();
"""


def write_ranking_page(path: Path, comparisons: Sequence[Comparison], sheet: str) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        comparisons: to rank.
        sheet: name under which the filled sheet is saved.

    Raises:
        RegionError: naming a question whose image or region cannot be used.
    """
    letters = LETTERS[: max(len(one.answers) for one in comparisons)]
    bar = (
        '<div class="bar">Ranks from 1, the best; equal ranks are allowed. Ranked: <span id="count">0</span> of '
        f'{len(comparisons)}. <button id="save">Save the sheet</button></div>'
    )
    articles = "\n".join(_article(number, one) for number, one in enumerate(comparisons, 1))
    script = _SCRIPT % (json.dumps([ITEM, MARK, *letters]), json.dumps(sheet))
    write_html_page(path, "Ranking", _STYLE, f"<h1>Ranking</h1>\n{bar}\n{articles}", script)


def _article(number: int, one: Comparison) -> str:
    sample = one.sample
    with reading(sample.name):
        image = load_image(sample.images[0])
    regions = [region.resolve(image.size, sample.name) for region in sample.regions()]
    question, _ = mark_regions(sample.question)
    choices = "".join(f"<option>{rank}</option>" for rank in range(1, len(one.answers) + 1))
    rows = "".join(
        f"<tr><td><b>{letter}</b></td><td><select><option></option>{choices}</select></td>"
        f"<td>{html.escape(answer)}</td></tr>"
        for letter, answer in one.letters().items()
    )
    return (
        f'<article data-item="{html.escape(sample.id)}" data-mark="{one.mark}"><div>'
        f'<img src="{jpeg_data_url(draw_regions(image, regions, 640))}" alt=""></div>'
        f"<div><h2>{number}. {question}</h2><table>{rows}</table></div></article>"
    )
