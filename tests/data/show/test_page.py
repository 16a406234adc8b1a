"""``pvit-ext data show``: what stands on the page, what does not, and that no text becomes markup."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pvit_ext import cli
from pvit_ext.data.records import RecordError
from pvit_ext.data.show import page as page_module
from pvit_ext.data.show.page import ShowOptions, show
from pvit_ext.regions.drawing import COLOURS
from tests.data.show.samples import HOSTILE, RECORDS, write


class Page(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("show")
    path, shown, bad = show(write(folder), folder / "images", folder / "out", ShowOptions())
    assert (shown, bad) == (len(RECORDS), 0)
    return Page(path)


def test_each_record_is_a_card_with_its_task_and_kinds(page: Page) -> None:
    cards = page.all("article")
    assert [card["data-task"] for card in cards[:2]] == ["identify", "identify"]
    assert [card["data-kinds"].split() for card in cards] == [
        ["box"], ["box"], ["mask"], ["box", "point", "polygon", "scribble"], ["no-region"], ["no-region"], ["box"]
    ]  # fmt: skip
    assert {button["data-task"] for button in page.all("button") if "data-task" in button} == {
        "identify", "describe", "compare", "no task named", HOSTILE
    }  # fmt: skip


def test_text_stays_text(page: Page) -> None:
    assert len(page.all("script")) == 1
    assert len(page.all("article")) == len(RECORDS)
    assert not [attributes for _, attributes in page.tags if any(name.startswith("on") for name in attributes)]
    assert page.text.count(HOSTILE) >= 3  # question, answer, name


def test_nothing_comes_from_the_network_and_no_other_script_runs(page: Page) -> None:
    assert {image["src"][:23] for image in page.all("img")} == {"data:image/jpeg;base64,"}
    assert not page.all("link")
    (policy,) = (meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/=]+';", policy)


def test_regions_are_drawn_on_their_image_in_the_colours_of_their_numbers(page: Page) -> None:
    images = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))).astype(int)
        for image in page.all("img")
    ]
    assert len(images) == 7  # one a record with an image, two for the one with two

    def shows(image: Any, number: int) -> bool:
        return bool((np.abs(image - np.array(COLOURS[number - 1])).max(2) < 40).any())

    first, second = images[3:5]
    assert [shows(first, number) for number in (1, 2, 3, 4)] == [True, False, True, True]
    assert [shows(second, number) for number in (1, 2, 3, 4)] == [False, True, False, False]
    marks = [tag["style"] for tag in page.all("b") if tag.get("class") == "mark"]
    assert marks[3:7] == [f"background:rgb{colour}" for colour in COLOURS[:4]]


def test_placeholders_are_numbers_and_images_are_named_only_where_there_are_several(page: Page) -> None:
    assert "What is 1?" in page.text
    assert "Is 1 like 2, 3 or 4?" in " ".join(page.text.split())
    assert "image 1" in page.text
    assert "image 2" in page.text
    assert "<region>" not in page.text
    assert "<image>" not in page.text


def test_numbers_are_of_the_file(page: Page) -> None:
    text = " ".join(page.text.split())
    assert "7records2images7regions7questions" in text  # the box that two records share is one region
    assert {"Regions per image", "Words per answer", "Short answers", "Kinds of regions", "Tasks"} <= {
        svg["aria-label"] for svg in page.all("svg")
    }


def test_a_sample_is_the_seeds_and_says_so(tmp_path: Path) -> None:
    from tests.data.show.samples import record

    file = write(tmp_path, [record(f"r{n}", "<image>\nq", f"answer{n}") for n in range(30)])
    texts = [
        Page(show(file, tmp_path / "images", tmp_path / name, ShowOptions(limit=5, seed=seed))[0]).text
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    shown = [re.findall(r"id '(r\d+)'", text) for text in texts]
    assert shown[0] == shown[1] != shown[2]
    assert len(shown[0]) == 5
    assert shown[0] == sorted(shown[0], key=lambda name: int(name[1:]))
    assert "5 of 30 records, drawn at random with seed 1" in texts[0]


def test_classes_are_those_of_the_source(tmp_path: Path) -> None:
    from tests.data.show.samples import record

    source = {"objects": [{"label": "cat"}, {"label": "cat"}, {"label": "<b>dog"}, 3]}
    file = write(tmp_path, [record("a", "<image>\nq", "a", source=source), record("b", "<image>\nq", "b", source=7)])
    page = Page(show(file, tmp_path / "images", tmp_path / "out", ShowOptions())[0])
    assert "Classes" in [svg["aria-label"] for svg in page.all("svg")]
    assert "cat: 2" in page.text
    assert "<b>dog: 1" in page.text


def test_bad_records_and_broken_images_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outside = {**RECORDS[0], "id": "outside", "regions": [[900, 900, 999, 999]]}
    cut = {**RECORDS[0], "id": "cut", "image": "cut.png"}
    file = write(tmp_path, [RECORDS[0], {"id": "<b>none"}, outside, cut])
    images = tmp_path / "images"
    (images / "cut.png").write_bytes((images / "a.png").read_bytes()[:60])
    words = ["data", "show", str(file), "--image-folder", str(images), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 1
    assert "1 bad records are not shown: pvit-ext data check" in capsys.readouterr().out
    page = Page(tmp_path / "out" / "index.html")
    assert len(page.all("article")) == 3
    assert "line 2 (id '<b>none')" in page.text
    assert "lies outside its image" in page.text
    assert "cut.png" in page.text


def test_nothing_to_show_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, [{"id": "none"}])
    with pytest.raises(RecordError, match="line 1"):
        show(file, tmp_path / "images", tmp_path / "out", ShowOptions())
    with pytest.raises(NotADirectoryError, match="image folder"):
        show(file, tmp_path / "other", tmp_path / "out", ShowOptions())
    words = ["data", "show", str(file), "--image-folder", str(tmp_path / "images"), "--out", str(tmp_path / "out")]
    assert cli.main([*words, "--limit", "0"]) == 2
    assert "--limit is 1 or more" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_json_array_is_shown_too(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_text(json.dumps(RECORDS[:2]))
    assert show(file, tmp_path / "images", tmp_path / "out", ShowOptions())[1] == 2


def test_plots_that_hold_a_part_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "_MEASURED", 4)
    monkeypatch.setattr(page_module, "_DOTS", 3)
    file = write(tmp_path, [{**RECORDS[0], "id": str(number)} for number in range(9)])
    path, _, _ = show(file, tmp_path / "images", tmp_path / "out", ShowOptions())
    text = path.read_text(encoding="utf-8")
    assert text.count("<circle") == 3
    assert "3 of 4 regions, drawn at random" in text
    assert "of 4 of 9 records, drawn at random" in text
