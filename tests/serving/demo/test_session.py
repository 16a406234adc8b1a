"""What a page opens goes with it, also what is pasted and dropped; and what a LION model reads is asked for."""

from __future__ import annotations

import base64
import time
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import pytest

from pvit_ext.serving.demo.app import Address, Parts, running
from pvit_ext.serving.demo.hints import Hints
from pvit_ext.serving.demo.service import Setting
from tests.serving.demo.browser import Page
from tests.serving.demo.conftest import COMMAND, Demo, Model
from tests.serving.demo.test_page import ask, text
from tests.serving.demo.test_pixels import open_picture, record
from tests.serving.soon import soon

pytestmark = pytest.mark.browser


def kept_file(page: Page, demo: Demo) -> Path:
    """The file of the picture that the page shows."""
    ask(page, "What is it?")
    page.until("document.querySelector('.answer.complete')")
    return Path(demo.model.answers[-1].query.image)


def test_what_was_opened_goes_when_the_page_is_closed(page: Page, demo: Demo, picture: Path) -> None:
    open_picture(page, picture)
    file = kept_file(page, demo)
    time.sleep(3)  # longer than the demo waits for a page that lost its connection
    assert file.read_bytes() == picture.read_bytes()
    page.send("Page.navigate", url="about:blank")
    assert soon(lambda: not file.exists(), 60)


def test_what_was_opened_goes_when_the_demo_ends(page: Page, demo: Demo, picture: Path, tmp_path: Path) -> None:
    model = Model()
    with running(Parts(model, Setting("a model", COMMAND), tmp_path), Address(port=0)) as address:
        page.open(address)
        open_picture(page, picture)
        file = kept_file(page, Demo(address, model, tmp_path, demo.segmenter, set()))
        assert file.exists()
        began = time.monotonic()
    assert not file.parent.parent.exists()
    assert time.monotonic() - began < 30
    page.open(demo.address)


def test_gradios_own_files_are_closed(page: Page, demo: Demo, picture: Path) -> None:
    open_picture(page, picture)
    file = kept_file(page, demo)
    for path in (
        f"gradio_api/file={file}", f"gradio_api/file/{file}", f"file={file}", "gradio_api/proxy=http://127.0.0.1/",
        "gradio_api/file=http://127.0.0.1:9/x", "gradio_api/upload", "monitoring", "gradio_api/stream/x",
        "gradio_api/upload_progress?upload_id=x", "stay/not-a-page",
    ):  # fmt: skip
        with pytest.raises(HTTPError) as error:
            urllib.request.urlopen(demo.address + path)
        assert error.value.code == 404, path


def test_task_and_tags_are_there_for_a_model_that_reads_them(
    page: Page, demo: Demo, picture: Path, tmp_path: Path
) -> None:
    assert page.run("document.querySelector('#hints').hidden")
    model = Model()
    setting = Setting("lion", COMMAND, hints=Hints(("image", "region"), by_question=True, tags=True))
    with running(Parts(model, setting, tmp_path / "records"), Address(port=0)) as address:
        page.open(address)
        open_picture(page, picture)
        assert page.run("[...document.querySelectorAll('#task option')].map((one) => one.text)") == [
            "by the question", "image", "region",
        ]  # fmt: skip
        page.run("document.querySelector('#task').value = 'region'")
        page.run("document.querySelector('#tags').focus()")
        page.type("dog, red car")
        ask(page, "Where is the dog?")
        page.until("document.querySelector('.answer.complete')")
        query = model.answers[-1].query
        assert (query.task, query.tags) == ("region", ("dog", "red car"))
        found = record(page)
        assert (found["lion_task"], found["tags"]) == ("region", ["dog", "red car"])
        assert "--tags 'dog,red car' --task region" in text(page, "#command")
    page.open(demo.address)


GIVE = """(() => {
  const bytes = Uint8Array.from(atob("%s"), (one) => one.charCodeAt(0)), given = new DataTransfer();
  given.items.add(new File([bytes], "given.png", {type: "image/png"}));
  %s
})()"""
WAYS = {
    "paste": 'document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: given, bubbles: true}))',
    "drop": 'document.querySelector("#stage").dispatchEvent(new DragEvent("drop", {dataTransfer: given}))',
}


@pytest.mark.parametrize("way", WAYS)
def test_a_picture_is_pasted_and_dropped(way: str, page: Page, picture: Path) -> None:
    page.run(GIVE % (base64.b64encode(picture.read_bytes()).decode(), WAYS[way]))
    page.until("/^given.png .* 400 . 300 pixels$/.test(document.querySelector('#size').textContent)")
