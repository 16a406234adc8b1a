"""The page in a real browser: drawing, copying, keyboard, narrow windows, and nothing from elsewhere."""

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
from pvit_ext.regions.region import Region
from tests.serving.demo.browser import Page
from tests.serving.demo.conftest import SIZE, Demo
from tests.serving.demo.test_pixels import open_picture, regions

pytestmark = pytest.mark.browser


def text(page: Page, selector: str) -> str:
    found: str = page.run(f"document.querySelector({json.dumps(selector)}).textContent")
    return found


def place(page: Page, x: float, y: float, size: tuple[int, int] = SIZE) -> tuple[float, float]:
    """Where a pixel of the picture is on the screen, for pictures that fit and are not zoomed."""
    frame = json.loads(page.run("JSON.stringify(document.querySelector('#canvas').getBoundingClientRect())"))
    scale = min(frame["width"] / size[0], frame["height"] / size[1])
    left = frame["left"] + (frame["width"] - size[0] * scale) / 2
    return left + x * scale, frame["top"] + (frame["height"] - size[1] * scale) / 2 + y * scale


def drag(page: Page, *places: tuple[float, float], size: tuple[int, int] = SIZE) -> None:
    page.drag(*(place(page, *one, size) for one in places))


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
    page.until("document.querySelector('#size').textContent.startsWith('other.png')")
    time.sleep(2)
    assert page.run("document.querySelectorAll('#regions li').length") == 0


def test_a_mask_of_another_size_is_refused(page: Page, picture: Path, tmp_path: Path) -> None:
    open_picture(page, picture)
    Image.new("L", (30, 30), 255).save(tmp_path / "mask.png")
    page.choose("#maskfile", tmp_path / "mask.png")
    assert "mask is 30x30, its image 400x300" in page.until("document.querySelector('#problem').textContent")


def test_the_command_line_parses_and_holds_the_numbers(page: Page, picture: Path) -> None:
    import shlex

    open_picture(page, picture)
    drag(page, (10, 20), (100, 120))
    box = regions(page)[0]["box"]
    words = shlex.split(text(page, "#command"))
    args = build_parser().parse_args(words[1:])
    assert (args.model, args.image, args.question) == ("runs/quick start", "two words.png", "What is <region>?")
    assert (args.system, args.max_new_tokens) == ("Be brief.", 128)
    assert text(page, "#note") == "Run it in the folder of two words.png."
    page.send("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    for name in ("command", "record"):
        page.click(f'[data-copy="{name}"]')
        page.until(f"document.querySelector('[data-copy=\"{name}\"]').textContent === 'Copied'")
        assert page.run("navigator.clipboard.readText()") == text(page, f"#{name}")
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


def test_nothing_is_asked_of_another_machine(page: Page, demo: Demo, picture: Path) -> None:
    open_picture(page, picture)
    drag(page, (10, 20), (100, 120))
    ask(page, "What is <region>?")
    page.until("document.querySelector('.answer.complete')")
    origins = {urlsplit(one)[:2] for one in page.requests if not one.startswith(("data:", "blob:"))}
    assert origins == {urlsplit(demo.address)[:2]}
    assert demo.connected == {"127.0.0.1"}  # by the server's process
