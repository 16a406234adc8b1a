"""A format of one's own, as the documentation shows it."""

import json

import pytest

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.convert.base import FORMATS, Evidence, SourceError, register_data_format
from pvit_ext.data.convert.json_items import JsonItems
from pvit_ext.data.convert.notes import Reason
from pvit_ext.data.convert.shapes import boxed, numbers
from tests.data.convert.truth import converted


class Mine(JsonItems):
    name = "mine"
    about = "my tool's export"

    @classmethod
    def detect(cls, peek):
        return Evidence(0.9, "items with image and things") if {"image", "things"} <= set(peek.item) else None

    def images(self, item, location, notes):
        if (found := self.image_folder.look_up([item["image"]], None, location, notes)) is None:
            return
        name, size = found
        objects = [boxed(numbers(one["box"], 4, "box"), size, notes, label=one["name"]) for one in item["things"]]
        for one in objects:
            if isinstance(one, Reason):
                notes.drop(one, location)
        yield AnnotatedImage(name, size, item["image"], tuple(one for one in objects if not isinstance(one, Reason)))


@pytest.fixture
def mine():
    register_data_format("mine")(Mine)
    yield
    del FORMATS["mine"]


def _write(path, *items):
    path.write_text("\n".join(map(json.dumps, items)))
    return path


@pytest.mark.usefixtures("mine")
def test_a_registered_format_is_found_and_read(tmp_path):
    things = [{"box": [8, 16, 32, 40], "name": "dog"}, {"box": [3, 3, 3, 9], "name": "line"}]
    source = _write(tmp_path / "mine.jsonl", {"image": "000000000101.jpg", "things": things})
    records, report = converted(tmp_path, "auto", source, "coco")
    assert records[0]["conversations"][1]["value"] == "dog"
    assert records[0]["id"] == "mine/000000000101.jpg"
    assert report.dropped == {"degenerate": 1}


@pytest.mark.usefixtures("mine")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"image": "000000000101.jpg", "things": [{"box": [1], "name": "a"}]}', "box is a list of 4 finite numbers"),
        ('{"image": ', "not valid JSON"),
        ("[1]", r"an item is an object, got \[1\]"),
    ],
)
def test_a_bad_item_is_named_with_its_line(tmp_path, text, expected):
    source = tmp_path / "mine.jsonl"
    source.write_text('{"image": "000000000101.jpg", "things": []}\n\n' + text)
    with pytest.raises(SourceError, match=rf"mine\.jsonl line 3: {expected}"):
        converted(tmp_path, "mine", source, "coco")
