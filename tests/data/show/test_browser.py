"""The page in a real browser: what the filters hide is really hidden, and hostile text runs nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.data.show.page import ShowOptions, show
from tests.data.show.samples import write

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH"),
]
DRIVER = """
const report = [];
const seen = () => [...document.querySelectorAll("article")].map((one) => one.getBoundingClientRect().height > 0);
const press = (query) => document.querySelector(query).click();
const type = (text) => { search.value = text; search.dispatchEvent(new Event("input")); };
const note = (name) => report.push([name, seen(), document.getElementById("shown").textContent, location.hash]);
note("all");
press('button[data-task="identify"]'); note("identify");
press('button[data-task="describe"]'); note("identify or describe");
press('button[data-task="identify"]'); press('button[data-kind="mask"]'); note("describe and mask");
press('button[data-task="describe"]'); press('button[data-kind="mask"]'); note("released");
type("FISH red"); note("words"); type("nowhere"); note("nothing");
const wide = document.documentElement.scrollWidth > innerWidth;
const result = document.body.appendChild(document.createElement("output"));
result.textContent = JSON.stringify({report, wide, title: document.title,
  nothing: document.getElementById("nothing").getBoundingClientRect().height});
"""


def dump(address: str, folder: Path, width: int = 1000) -> str:
    """The page's elements after its scripts."""
    words = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    words += ["--virtual-time-budget=5000", f"--window-size={width},900", "--dump-dom", address]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    return show(write(folder), folder / "images", folder / "out", ShowOptions())[0]


def drive(page: Path, folder: Path, width: int) -> dict[str, Any]:
    """Press its buttons in a copy whose policy lets the test's own script run."""
    text = page.read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    copy = folder / "driven.html"
    copy.write_text(text.replace("</body>", f"<script>{DRIVER}</script></body>"), encoding="utf-8")
    (found,) = re.findall(r"<output>(.*?)</output>", dump(copy.as_uri(), folder, width))
    result: dict[str, Any] = json.loads(unescape(found))
    return result


@pytest.mark.parametrize("width", [1000, 500])
def test_filters_hide_records(page: Path, tmp_path: Path, width: int) -> None:
    result = drive(page, tmp_path, width)
    shown = {name: [place for place, visible in enumerate(seen) if visible] for name, seen, _, _ in result["report"]}
    assert shown == {
        "all": [0, 1, 2, 3, 4, 5, 6],
        "identify": [0, 1],
        "identify or describe": [0, 1, 2, 4],
        "describe and mask": [2],
        "released": [0, 1, 2, 3, 4, 5, 6],
        "words": [0],
        "nothing": [],
    }
    assert [int(count) for _, _, count, _ in result["report"]] == [len(places) for places in shown.values()]
    assert result["nothing"] > 0
    assert not result["wide"], "the page is wider than its window"
    assert "run" not in result["title"].split()


def test_an_address_restores_a_view_under_the_pages_own_policy(page: Path, tmp_path: Path) -> None:
    found = dump(f"{page.as_uri()}#kind=mask&kind=point&q=no", tmp_path)
    cards = re.findall(r"<article [^>]*>", found)
    assert [place for place, card in enumerate(cards) if " hidden" not in card] == [3]
    assert '<b id="shown">1</b>' in found
    assert "<title>run</title>" not in found
