"""The page to rank on, in a real browser: what its button saves is a sheet that can be read."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

from PIL import Image

from pvit_ext.evaluation.ranking.comparison import Comparison
from pvit_ext.evaluation.ranking.page import write_ranking_page
from pvit_ext.evaluation.ranking.sheet import read_sheet
from pvit_ext.evaluation.sample import Sample
from pvit_ext.regions.region import Region
from tests.data.show.test_browser import dump, pytestmark  # noqa: F401

DRIVER = """
let saved = null, file = null;
URL.createObjectURL = (blob) => { saved = blob; return "data:,"; };
HTMLAnchorElement.prototype.click = function () { file = this.download; };
const choose = (article, values) => [...article.querySelectorAll("select")].forEach((one, k) => {
  one.value = values[k]; one.dispatchEvent(new Event("change", {bubbles: true})); });
const [first, second] = document.querySelectorAll("article");
choose(first, ["2", "1", "2"]);
choose(second, ["1", "", ""]);
const count = document.getElementById("count").textContent, done = first.classList.contains("done");
choose(second, ["", "", ""]);
document.getElementById("save").click();
const result = document.body.appendChild(document.createElement("output"));
saved.text().then((text) => { result.textContent = JSON.stringify({text, file, count, done}); });
"""


def test_the_button_saves_a_sheet(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "0.png")
    sample = Sample('odd "id", 1', (str(tmp_path / "0.png"),), "What is <region>?", "", (Region.box(5, 5, 20, 30),))
    other = Sample("2", (str(tmp_path / "0.png"),), "And <script>?", "")
    answers = {"x": "<script>document.title = 1</script>", "y": "yes", "z": "no"}
    comparisons = [Comparison(sample, answers), Comparison(other, answers)]
    page = tmp_path / "ranking.html"
    write_ranking_page(page, comparisons, "sheet.csv")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    page.write_text(text.replace("</body>", f"<script>{DRIVER}</script></body>"), encoding="utf-8")
    found = dump(page.as_uri(), tmp_path)
    assert "<title>Ranking</title>" in found
    (output,) = re.findall(r"<output>(.*?)</output>", found)
    saved = json.loads(unescape(output))
    assert (saved["file"], saved["count"], saved["done"]) == ("sheet.csv", "1", True)
    sheet = tmp_path / "sheet.csv"
    sheet.write_text(saved["text"], encoding="utf-8", newline="")
    best, *_ = (system for letter, system in zip("ABC", comparisons[0].order, strict=True) if letter == "B")
    want = {system: 1.0 if system == best else 2.5 for system in answers}
    assert read_sheet(sheet, comparisons) == {sample.id: want}
