"""A box drawn with the mouse around what is seen gives the pixels that it covers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.serving.demo.browser import Page
from tests.serving.demo.conftest import Demo

pytestmark = pytest.mark.browser
MARK, GROUND = (255, 0, 255), (20, 120, 60)
Pixels = tuple[int, int, int, int]


def marked(size: tuple[int, int], box: Pixels) -> Image.Image:
    """A plain picture with a block of another colour."""
    image = Image.new("RGB", size, GROUND)
    image.paste(MARK, box)
    return image


def plain(image: Image.Image, file: Path) -> Path:
    image.save(file.with_suffix(".png"))
    return file.with_suffix(".png")


def turned(orientation: int, operation: Image.Transpose) -> Callable[[Image.Image, Path], Path]:
    """Stored turned, with the EXIF orientation that turns it back."""

    def save(image: Image.Image, file: Path) -> Path:
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.transpose(operation).save(file.with_suffix(".jpg"), quality=98, subsampling=0, exif=exif)
        return file.with_suffix(".jpg")

    return save


PICTURES: dict[str, tuple[tuple[int, int], Pixels, Callable[[Image.Image, Path], Path]]] = {
    "wide": ((1200, 300), (803, 41, 958, 122), plain),
    "tall": ((260, 900), (31, 610, 96, 777), plain),
    "small": ((40, 30), (5, 7, 18, 22), plain),
    "exif 6": ((640, 480), (101, 52, 223, 141), turned(6, Image.Transpose.ROTATE_90)),
    "exif 3": ((640, 480), (101, 52, 223, 141), turned(3, Image.Transpose.ROTATE_180)),
    "exif 5": ((480, 640), (101, 52, 223, 141), turned(5, Image.Transpose.TRANSPOSE)),
    "scaled down": ((3000, 2000), (1207, 903, 2111, 1493), plain),
    "beyond what is sent": ((6000, 1500), (2407, 503, 4211, 1093), plain),
}


def open_picture(page: Page, file: Path) -> None:
    page.choose("#file", file)
    page.until(f"document.querySelector('#size').textContent.includes({json.dumps(file.name)})")
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def seen(page: Page, ratio: float) -> tuple[float, float, float, float]:
    """Edges of the block of colour on the canvas, in CSS pixels of the window: pixels that are half covered or more."""
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
    frame = page.run("JSON.stringify(document.querySelector('#canvas').getBoundingClientRect())")
    edges = json.loads(frame)
    left, top, right, bottom = (round(edges[name] * ratio) for name in ("left", "top", "right", "bottom"))
    pixels = shot[top:bottom, left:right]
    near = (pixels[..., 0] > 137) & (pixels[..., 1] < 60)
    rows, columns = np.flatnonzero(near.any(1)) + top, np.flatnonzero(near.any(0)) + left
    return columns[0] / ratio, rows[0] / ratio, (columns[-1] + 1) / ratio, (rows[-1] + 1) / ratio


def regions(page: Page) -> list[Any]:
    """What the page would send, from the record that it shows."""
    found: list[Any] = record(page).get("regions", [])
    return found


def record(page: Page) -> dict[str, Any]:
    """The record that the page shows."""
    page.run("document.querySelector('#copies').open = true")
    page.until("document.querySelector('#copies').getAttribute('aria-busy') === 'false'")
    found: dict[str, Any] = json.loads(page.run("document.querySelector('#record').textContent"))
    return found


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("name", PICTURES)
def test_a_box_around_what_is_seen(name: str, ratio: int, page: Page, tmp_path: Path) -> None:
    size, box, save = PICTURES[name]
    page.size(1100, 800, ratio)
    open_picture(page, save(marked(size, box), tmp_path / "picture"))
    x0, y0, x1, y1 = seen(page, ratio)
    page.drag((x0, y0), ((x0 + x1) / 2, y1), (x1, y1))
    (region,) = regions(page)
    # One pixel of the picture; where the screen has fewer, one of the screen's, and half of one to find an edge by eye.
    tolerance = max(1, 1.5 * max(size[0] / 600, size[1] / 500) / ratio)
    assert region["box"] == pytest.approx(box, abs=tolerance)


@pytest.mark.parametrize("ratio", [1, 2])
def test_a_box_drawn_on_a_zoomed_view(ratio: int, page: Page, tmp_path: Path) -> None:
    size, box = (3000, 2000), (1487, 993, 1511, 1009)
    page.size(1100, 800, ratio)
    open_picture(page, plain(marked(size, box), tmp_path / "picture"))
    for _ in range(12):
        page.click('[data-do="in"]')
    page.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    x0, y0, x1, y1 = seen(page, ratio)
    page.drag((x1, y1), (x0, y0))
    (region,) = regions(page)
    assert region["box"] == pytest.approx(box, abs=1)


def test_what_is_sent_to_the_model_is_what_was_drawn(page: Page, demo: Demo, tmp_path: Path) -> None:
    size, box, save = PICTURES["exif 6"]
    open_picture(page, save(marked(size, box), tmp_path / "picture"))
    x0, y0, x1, y1 = seen(page, 1)
    page.drag((x0, y0), (x1, y1))
    page.click("#chips button")
    page.type(" is what?")
    page.click("#send")
    page.until("document.querySelector('.answer.complete')")
    query = demo.model.answers[-1].query
    assert query.text == "<region> is what?"
    (region,) = query.all_regions("query")
    assert [value for point in region.points for value in point] == regions(page)[0]["box"]
    assert query.image_sizes() == [size]
