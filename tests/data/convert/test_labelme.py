"""LabelMe: what the members of a group and the file itself say beside their shapes, and which file is bad."""

import json

import pytest
from PIL import Image

from pvit_ext.data.convert.base import SourceError
from tests.data.convert.truth import converted, read


def _shape(label, points, kind="rectangle", **fields):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **fields}


def _file(tmp_path, name, *shapes, **fields):
    folder = tmp_path / "labelme"
    folder.mkdir(exist_ok=True)
    Image.new("RGB", (64, 48)).save(folder / f"{name}.jpg")
    item = {"imagePath": f"{name}.jpg", "imageWidth": 64, "imageHeight": 48, "flags": {}, "shapes": shapes, **fields}
    (folder / f"{name}.json").write_text(json.dumps(item))
    return folder


def test_members_of_a_group_are_heard_all(tmp_path):
    folder = _file(
        tmp_path, "a",
        _shape("dog", [[5, 5], [20, 20]], group_id=1, flags={"wet": True, "old": False}, description="a dog"),
        _shape("dog", [[30, 5], [40, 20]], group_id=1, flags={"dry": True, "wet": True}, description="its tail"),
        _shape("cat", [[1, 1], [9, 9]], flags={"sly": True}, description="a cat"),
        flags={"indoor": True, "night": True, "blurred": False},
    )  # fmt: skip
    images, notes = read("labelme", folder, folder)
    dog, cat = images["a.jpg"][0].objects
    assert (dog.captions, dog.attributes) == (("a dog", "its tail"), ("wet", "dry"))
    assert (cat.captions, cat.attributes) == (("a cat",), ("sly",))
    assert notes.counts["flags of images, left out"] == 2


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"imageWidth": -64}, "width and height are whole numbers above 0, got -64 and 48"),
        ({"imageWidth": "64"}, "width and height are whole numbers above 0, got '64' and 48"),
        ({"imagePath": None}, "'imagePath' is text, got None"),
        ({"shapes": {}}, "'shapes' is a list, got {}"),
        ({"shapes": "none"}, "'shapes' is a list"),
    ],
)
def test_a_bad_file_is_named(tmp_path, fields, expected):
    _file(tmp_path, "a", _shape("dog", [[5, 5], [20, 20]]))
    folder = _file(tmp_path, "b", **fields)
    with pytest.raises(SourceError, match=rf"\nb\.json: {expected}"):
        converted(tmp_path, "labelme", folder, folder)
