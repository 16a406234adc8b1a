"""The conversation in a real browser: questions and the regions that they name, stopping, correcting, saving."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from pvit_ext.data.records import load_records
from tests.serving.demo.browser import Page
from tests.serving.demo.conftest import SIZE, Demo
from tests.serving.demo.test_page import ask, drag, text
from tests.serving.demo.test_pixels import open_picture

pytestmark = pytest.mark.browser


def test_several_turns_and_a_corrected_record(page: Page, demo: Demo, picture: Path) -> None:
    open_picture(page, picture)
    drag(page, (10, 20), (100, 120))
    drag(page, (200, 20), (300, 120))
    ask(page, "Is <region 2> left of <region 1>?")
    page.until("document.querySelector('.answer.complete')")
    assert text(page, ".answer .text") == "It is a <b>slow</b> answer."
    ask(page, "And what is <region>?")
    page.until("document.querySelectorAll('.answer.complete').length === 2")
    query = demo.model.answers[-1].query
    assert (query.text, len(query.regions)) == ("And what is <region>?", 3)
    assert query.history == [("Is <region> left of <region>?", "It is a <b>slow</b> answer.")]
    assert query.regions[0].points[0] == pytest.approx((200, 20), abs=0.5)
    page.click("article:first-child .answer button")
    page.run("document.activeElement.value = 'No.'")
    page.key("Enter")
    page.click("#save")
    page.until("document.querySelector('#saved').textContent")
    record = load_records(demo.records / "records.jsonl", demo.records / "images")[-1]
    assert [turn["value"] for turn in record.data["conversations"]] == [
        "<image>\nIs <region> left of <region>?", "No.", "And what is <region>?", "It is a <b>slow</b> answer.",
    ]  # fmt: skip
    assert [region.points[0] for region in record.resolve(SIZE)] == [
        pytest.approx(corner, abs=0.5) for corner in ((200, 20), (10, 20), (10, 20))
    ]
    assert Path(record.image_files[0]).read_bytes() == picture.read_bytes()
    assert record.data["corrected"] is True


def test_stop(page: Page, demo: Demo, picture: Path) -> None:
    open_picture(page, picture)
    ask(page, "a long one")
    page.until("document.querySelector('.answer .text').textContent.includes('slow')")
    page.click("#stop")
    page.until("document.querySelector('.answer.stopped')")
    said = text(page, ".answer .text")
    time.sleep(0.5)
    assert text(page, ".answer .text") == said
    assert demo.model.answers[-1].cancelled
    page.until("!document.querySelector('#send').hidden")


def test_a_stopped_answer_is_kept_only_once_corrected(page: Page, demo: Demo, picture: Path) -> None:
    open_picture(page, picture)
    ask(page, "a long one")
    page.until("document.querySelector('.answer .text').textContent.includes('slow')")
    page.click("#stop")
    page.until("document.querySelector('.answer.stopped')")
    assert "neither history nor saved until corrected" in text(page, ".answer em")
    assert page.run("document.querySelector('#save').disabled")
    ask(page, "What else?")
    page.until("document.querySelector('.answer.complete')")
    assert demo.model.answers[-1].query.history == []
    page.click("#save")
    saved = page.until("document.querySelector('#saved').textContent")
    assert saved.endswith("without 1 stopped answer; correct it, and it is saved too")
    records = demo.records / "records.jsonl", demo.records / "images"
    assert "long" not in str(load_records(*records)[-1].data)
    page.click("article:first-child .answer button")
    page.key("Enter")  # as it is: a person has read it
    page.click("#save")
    page.until("!document.querySelector('#saved').textContent.includes('stopped')")
    record = load_records(*records)[-1].data
    assert record["conversations"][0]["value"] == "<image>\na long one"
    assert record["corrected"] is True


def test_problems_are_said_and_the_question_stays(page: Page, picture: Path) -> None:
    open_picture(page, picture)
    ask(page, "a bad one")
    assert "refuses" in page.until("document.querySelector('.answer.error')?.textContent")
    assert page.run("document.querySelector('#question').value") == "a bad one"
    page.run("document.querySelector('#question').value = ''")
    ask(page, "What is <region 7>?")
    assert "no region 7" in page.until("document.querySelector('#problem').textContent")


def test_a_bare_region_is_the_next_that_has_no_number(page: Page, demo: Demo, picture: Path) -> None:
    open_picture(page, picture)
    for x in (10, 110, 210):
        drag(page, (x, 20), (x + 50, 120))
    ask(page, "Is <region> like <region 1> or <region>?")
    page.until("document.querySelector('.answer.complete')")
    lefts = [region.points[0][0] for region in demo.model.answers[-1].query.regions]
    assert lefts == pytest.approx([110, 10, 210], abs=0.5)
    page.run("document.querySelector('#question').value = ''")
    ask(page, "<region 1> <region 2> <region 3> <region>?")
    wanted = "The question has more <region> than there are regions that it does not name by number"
    page.until(f"document.querySelector('#problem').textContent === {json.dumps(wanted)}")


def test_a_region_that_no_question_names_is_said(page: Page, demo: Demo, picture: Path) -> None:
    open_picture(page, picture)
    drag(page, (10, 20), (100, 120))
    drag(page, (200, 20), (300, 120))
    asked = len(demo.model.answers)
    ask(page, "What is in the picture?")
    said = page.until("document.querySelector('#problem').textContent")
    assert said == "Regions 1, 2 are drawn, but the question names none: press their numbers, or delete them"
    page.run("document.querySelector('#question').value = ''")
    ask(page, "What is <region 1>?")
    wanted = "Region 2 is drawn, but the question does not name it: press its number, or delete it"
    page.until(f"document.querySelector('#problem').textContent === {json.dumps(wanted)}")
    assert len(demo.model.answers) == asked
    assert page.run("document.querySelector('#question').value") == "What is <region 1>?"
    page.run("document.querySelector('#question').value = ''")
    ask(page, "What is <region 1> to <region 2>?")
    page.until("document.querySelector('.answer.complete')")
    ask(page, "And what else?")  # the first question named them
    page.until("document.querySelectorAll('.answer.complete').length === 2")
