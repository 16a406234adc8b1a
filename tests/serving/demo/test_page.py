"""The page in a real browser: asking, stopping, saving, keyboard, narrow windows, and nothing from elsewhere."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from pvit_ext.cli import build_parser
from pvit_ext.data.records import load_records
from pvit_ext.regions.region import Region
from tests.serving.demo.browser import Page
from tests.serving.demo.conftest import Demo
from tests.serving.demo.test_pixels import open_picture, regions

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SIZE = (400, 300)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "two words.png"
    Image.new("RGB", SIZE, (40, 90, 120)).save(file)
    return file


def text(page: Page, selector: str) -> str:
    found: str = page.run(f"document.querySelector({json.dumps(selector)}).textContent")
    return found


def place(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the picture is on the screen, for pictures that fit and are not zoomed."""
    frame = json.loads(page.run("JSON.stringify(document.querySelector('#canvas').getBoundingClientRect())"))
    scale = min(frame["width"] / SIZE[0], frame["height"] / SIZE[1])
    left = frame["left"] + (frame["width"] - SIZE[0] * scale) / 2
    return left + x * scale, frame["top"] + (frame["height"] - SIZE[1] * scale) / 2 + y * scale


def drag(page: Page, *places: tuple[float, float]) -> None:
    page.drag(*(place(page, *one) for one in places))


def tool(page: Page, name: str) -> None:
    page.click(f'[data-tool="{name}"]')


def ask(page: Page, question: str) -> None:
    page.run("document.querySelector('#question').focus()")
    page.type(question)
    page.key("Enter")


def test_every_kind_of_region(page: Page, picture: Path, tmp_path: Path) -> None:
    open_picture(page, picture)
    drag(page, (10, 20), (100, 120))
    tool(page, "point")
    drag(page, (200, 40))
    tool(page, "scribble")
    drag(page, (150, 200), (180, 230), (210, 200))
    tool(page, "polygon")
    for corner in ((300, 50), (380, 60), (340, 150), (300, 50)):
        drag(page, corner)
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[200:250, 20:90] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    page.choose("#maskfile", tmp_path / "mask.png")
    page.until("document.querySelectorAll('#regions li').length === 5")
    box, point, scribble, polygon, painted = regions(page)
    assert box["box"] == pytest.approx([10, 20, 100, 120], abs=0.5)
    assert point["point"] == pytest.approx([200, 40], abs=0.5)
    assert np.array(scribble["scribble"]) == pytest.approx(np.array([[150, 200], [180, 230], [210, 200]]), abs=0.5)
    assert np.array(polygon["polygon"]) == pytest.approx(np.array([[300, 50], [380, 60], [340, 150]]), abs=0.5)
    assert painted["mask"]["size"] == [300, 400]
    assert sum(painted["mask"]["counts"][1::2]) == 50 * 70


def test_a_click_and_a_box_become_masks(page: Page, picture: Path) -> None:
    open_picture(page, picture)
    tool(page, "segment")
    drag(page, (100, 100), (200, 180))
    page.until("document.querySelectorAll('#regions li').length === 1")
    drag(page, (300, 60))
    page.until("document.querySelectorAll('#regions li').length === 2")
    for shape, x, y in zip(regions(page), (150, 300), (140, 60), strict=True):
        mask = Region.mask(shape["mask"]).to_mask(SIZE)
        assert mask[y, x]
        assert not mask[280, 20]


def test_a_mask_that_comes_after_another_picture_is_dropped(
    page: Page, demo: Demo, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_picture(page, picture)
    tool(page, "segment")
    monkeypatch.setattr(demo.segmenter, "seconds", 1.5)
    drag(page, (300, 60))
    other = picture.with_name("other.png")
    Image.new("RGB", SIZE, (90, 90, 0)).save(other)
    page.choose("#file", other)
    page.until("document.querySelector('#size').textContent.startsWith('other.png')", 10)
    time.sleep(2)
    assert page.run("document.querySelectorAll('#regions li').length") == 0


def test_a_mask_of_another_size_is_refused(page: Page, picture: Path, tmp_path: Path) -> None:
    open_picture(page, picture)
    Image.new("L", (30, 30), 255).save(tmp_path / "mask.png")
    page.choose("#maskfile", tmp_path / "mask.png")
    assert "mask is 30x30, its image 400x300" in page.until("document.querySelector('#problem').textContent")


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
    page.until("document.querySelector('.answer .text').textContent.includes('slow')", 10)
    page.click("#stop")
    page.until("document.querySelector('.answer.stopped')", 10)
    assert "neither history nor saved until corrected" in text(page, ".answer em")
    assert page.run("document.querySelector('#save').disabled")
    ask(page, "What else?")
    page.until("document.querySelector('.answer.complete')", 10)
    assert demo.model.answers[-1].query.history == []
    page.click("#save")
    saved = page.until("document.querySelector('#saved').textContent", 10)
    assert saved.endswith("without 1 stopped answer; correct it, and it is saved too")
    records = demo.records / "records.jsonl", demo.records / "images"
    assert "long" not in str(load_records(*records)[-1].data)
    page.click("article:first-child .answer button")
    page.key("Enter")  # as it is: a person has read it
    page.click("#save")
    page.until("!document.querySelector('#saved').textContent.includes('stopped')", 10)
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
    page.until("document.querySelector('.answer.complete')", 5)
    lefts = [region.points[0][0] for region in demo.model.answers[-1].query.regions]
    assert lefts == pytest.approx([110, 10, 210], abs=0.5)
    page.run("document.querySelector('#question').value = ''")
    ask(page, "<region 1> <region 2> <region 3> <region>?")
    wanted = "The question has more <region> than there are regions that it does not name by number"
    page.until(f"document.querySelector('#problem').textContent === {json.dumps(wanted)}", 5)


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


def test_the_command_line_parses_and_holds_the_numbers(page: Page, picture: Path) -> None:
    import shlex

    open_picture(page, picture)
    drag(page, (10, 20), (100, 120))
    box = regions(page)[0]["box"]
    words = shlex.split(text(page, "#command"))
    args = build_parser().parse_args(words[1:])
    assert (args.model, args.image, args.question) == ("runs/quick start", "two words.png", "What is <region>?")
    assert args.regions == [("box", box)]


def test_everything_by_keyboard(page: Page, picture: Path) -> None:
    open_picture(page, picture)
    page.run("document.querySelector('#canvas').focus()")
    page.key("Enter")
    (region,) = regions(page)
    page.run("document.querySelector('#canvas').focus()")
    page.key("ArrowRight")
    page.key("ArrowDown", "shift")
    page.key("ArrowRight", "alt")
    x0, y0, x1, y1 = region["box"]
    assert regions(page)[0]["box"] == pytest.approx([x0 + 1, y0 + 10, x1 + 2, y1 + 10], abs=0.011)
    page.run("document.querySelector('#canvas').focus()")
    page.key("p")
    page.key("Enter")
    assert [next(iter(one)) for one in regions(page)] == ["box", "point"]
    page.run("document.querySelector('#canvas').focus()")
    page.key("PageUp")
    page.key("Delete")
    assert [next(iter(one)) for one in regions(page)] == ["point"]
    page.run("document.querySelector('#canvas').focus()")
    page.key("z", "ctrl")
    assert len(regions(page)) == 2
    page.run("document.querySelector('#canvas').focus()")
    page.key("y", "ctrl")
    assert len(regions(page)) == 1


def test_tab_reaches_everything_that_has_a_name(page: Page, picture: Path) -> None:
    open_picture(page, picture)
    drag(page, (10, 20), (100, 120))
    page.run("document.querySelector('[data-tool]').focus()")
    reached: list[Any] = []
    describe = "((one) => [one.id, one.getAttribute('aria-label') || one.textContent.trim() || one.title"
    describe += " || one.labels?.[0]?.textContent || ''])(document.activeElement)"
    for _ in range(60):
        page.key("Tab")
        found = page.run(describe)
        if found in reached or page.run("document.activeElement === document.body"):
            break
        reached.append(found)
    assert all(name for _, name in reached), reached
    order = [name for name, _ in reached if name in ("canvas", "question")]
    assert order == ["canvas", "question"]
    assert any("put it into the question" in name for _, name in reached)


@pytest.mark.parametrize("width", [360, 400, 420])
def test_a_phones_width(width: int, page: Page, demo: Demo, picture: Path) -> None:
    page.size(width, 780, 2, touch=True)
    page.open(demo.address)
    open_picture(page, picture)
    for y in (20, 100, 180):
        drag(page, (10.25, y), (390, y + 60))
    page.run("document.querySelector('#copies').open = true")
    ask(
        page,
        "What are <region 1>, <region 2>, <region 3> in averyveryveryveryveryveryveryveryveryveryverylongword?",
    )
    page.until("document.querySelector('.answer.complete')")
    assert page.run("document.documentElement.scrollWidth") <= width
    cut = """[...document.querySelectorAll('#pvit button, #pvit canvas, #pvit pre, #pvit input, #pvit textarea')]
      .filter((one) => one.getBoundingClientRect().width && !one.closest('.unseen'))
      .filter((one) => { const around = one.parentElement.closest('ol, section, #turns').getBoundingClientRect();
        const own = one.getBoundingClientRect(); return own.right > around.right + 1 || own.left < around.left - 1; })
      .map((one) => one.outerHTML)"""
    assert page.run(cut) == []


def test_a_finger_draws(page: Page, demo: Demo, picture: Path) -> None:
    page.size(400, 780, 2, touch=True)
    page.open(demo.address)
    open_picture(page, picture)
    (x0, y0), (x1, y1) = place(page, 50, 60), place(page, 200, 180)
    for kind, x, y in (("touchStart", x0, y0), ("touchMove", (x0 + x1) / 2, y1), ("touchMove", x1, y1)):
        page.send("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
    page.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert regions(page)[0]["box"] == pytest.approx([50, 60, 200, 180], abs=1)


def test_the_examples_open_with_their_regions(page: Page) -> None:
    page.click("#examples button:nth-child(2)")
    page.until("document.querySelectorAll('#regions li').length === 2")
    assert page.run("document.querySelector('#question').value") == "Which is larger, <region 1> or <region 2>?"


def test_nothing_is_asked_of_another_origin(page: Page, demo: Demo, picture: Path) -> None:
    open_picture(page, picture)
    drag(page, (10, 20), (100, 120))
    ask(page, "What is <region>?")
    page.until("document.querySelector('.answer.complete')")
    origins = {urlsplit(one)[:2] for one in page.requests if not one.startswith(("data:", "blob:"))}
    assert origins == {urlsplit(demo.address)[:2]}
