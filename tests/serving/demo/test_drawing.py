"""Steps that are taken back, and clicks beside the picture, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.serving.demo.browser import Page
from tests.serving.demo.test_page import drag, text, tool
from tests.serving.demo.test_pixels import open_picture, regions

pytestmark = pytest.mark.browser
TALL = (100, 400)


def press(page: Page, *keys: str) -> None:
    """Keys on the canvas; Ctrl with those of one upper letter."""
    page.run("document.querySelector('#canvas').focus()")
    for key in keys:
        page.key(*((key.lower(), "ctrl") if key in ("Y", "Z") else (key,)))


@pytest.fixture
def tall(page: Page, tmp_path: Path) -> Page:
    """The page with a picture that has much room beside it."""
    Image.new("RGB", TALL, (40, 90, 120)).save(tmp_path / "tall.png")
    open_picture(page, tmp_path / "tall.png")
    return page


def test_quick_keys_are_one_step_and_none_goes_on_after_an_undo(page: Page, picture: Path) -> None:
    open_picture(page, picture)
    press(page, "Enter")
    (before,) = regions(page)
    press(page, "ArrowRight", "ArrowRight", "ArrowDown")
    (after,) = regions(page)
    assert after["box"] != before["box"]
    press(page, "Z")
    assert regions(page) == [before]
    press(page, "ArrowRight", "Z")
    assert regions(page) == [before]
    press(page, "Z", "Y", "ArrowRight", "Z")
    assert regions(page) == [before]


def test_quick_keys_on_two_regions_are_two_steps(page: Page, picture: Path) -> None:
    open_picture(page, picture)
    press(page, "Enter", "p", "Enter")
    box, point = regions(page)
    press(page, "ArrowRight", "PageUp", "ArrowDown", "Z")
    moved = regions(page)
    assert (moved[0], moved[1] != point) == (box, True)
    press(page, "Z")
    assert regions(page) == [box, point]


def test_keys_that_move_nothing_are_no_step(page: Page, picture: Path) -> None:
    open_picture(page, picture)
    drag(page, (0, 20), (100, 120))
    (box,) = regions(page)
    assert box["box"][0] == 0
    press(page, "ArrowLeft", "Z")
    assert page.run("document.querySelectorAll('#regions li').length") == 0


def test_undo_takes_back_the_corners_of_a_polygon(page: Page, picture: Path) -> None:
    open_picture(page, picture)
    drag(page, (10, 20), (100, 120))
    tool(page, "polygon")
    for corner in ((300, 50), (380, 60), (340, 150)):
        drag(page, corner)
    press(page, "Z")
    drag(page, (350, 200))
    press(page, "Enter")
    box, polygon = regions(page)
    assert "box" in box
    assert [round(y) for _, y in polygon["polygon"]] == [50, 60, 200]
    tool(page, "polygon")
    drag(page, (200, 250))
    press(page, "Z", "Z")
    assert [next(iter(one)) for one in regions(page)] == ["box"]


def test_a_drag_ends_with_an_undo(page: Page, picture: Path) -> None:
    from tests.serving.demo.test_page import place

    open_picture(page, picture)
    drag(page, (100, 100), (200, 200))
    (box,) = regions(page)
    tool(page, "select")
    page.mouse("moved", *place(page, 150, 150))
    page.mouse("pressed", *place(page, 150, 150), 1, 1)
    page.mouse("moved", *place(page, 180, 150), 1)
    press(page, "Z")
    page.mouse("moved", *place(page, 190, 190), 1)
    page.mouse("released", *place(page, 190, 190), 0, 1)
    assert regions(page) == [box]


def test_clicks_beside_the_picture_are_on_nothing(tall: Page) -> None:
    tool(tall, "point")
    drag(tall, (-60, 100), size=TALL)
    assert text(tall, "#said") == "That is beside the picture"
    drag(tall, (-3, 100), size=TALL)  # within some pixels of the screen: its edge is meant
    tool(tall, "segment")
    drag(tall, (170, 100), size=TALL)
    tool(tall, "polygon")
    for corner in ((20, 50), (80, 60), (180, 150), (40, 150), (20, 50)):
        drag(tall, corner, size=TALL)
    point, polygon = regions(tall)
    assert point["point"] == [0, pytest.approx(100, abs=1)]
    assert [[round(x), round(y)] for x, y in polygon["polygon"]] == [[20, 50], [80, 60], [40, 150]]


def test_boxes_end_at_the_pictures_edge_and_strokes_leave_out_what_is_beside_it(tall: Page) -> None:
    drag(tall, (-60, 100), (40, 200), size=TALL)
    drag(tall, (-90, 100), (-20, 200), size=TALL)
    tool(tall, "scribble")
    drag(tall, (150, 20), (130, 40), (50, 60), (60, 80), (170, 90), (50, 99), size=TALL)
    drag(tall, (150, 20), (150, 90), size=TALL)
    box, scribble = regions(tall)
    assert box["box"] == [0, pytest.approx(100, abs=1), pytest.approx(40, abs=1), pytest.approx(200, abs=1)]
    assert [[round(x), round(y)] for x, y in scribble["scribble"]] == [[50, 60], [60, 80], [50, 99]]
