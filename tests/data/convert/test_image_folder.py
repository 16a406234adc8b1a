"""Names and sizes of images: each is opened once while it is named again and again."""

import pytest

from pvit_ext.data.convert import image_folder as module
from pvit_ext.data.convert.image_folder import ImageFolder
from pvit_ext.data.convert.notes import BadItem, Notes
from tests.data.convert.truth import FIXTURES


def test_a_image_is_opened_once(monkeypatch):
    opened = []
    real = module.image_size
    monkeypatch.setattr(module, "image_size", lambda path: opened.append(path) or real(path))
    monkeypatch.setattr(module, "_KEPT", 2)
    folder = ImageFolder(FIXTURES / "coco/val2017")
    for number in (101, 101, 102, 101, 103, 101):
        found = folder.look_up([f"000000000{number}.jpg"], None, "here", Notes())
        assert found == (f"000000000{number}.jpg", {101: (64, 48), 102: (48, 64), 103: (80, 40)}[number])
    assert [path[-7:-4] for path in opened] == ["101", "102", "103", "101"]


@pytest.mark.parametrize(
    "size", [(64.5, 48), ("64", 48), (True, 48), (0, 48), (-1, 48), ([64], 48), (float("nan"), 48)]
)
def test_declared_sizes_that_are_none(size):
    for opened in (True, False):
        with pytest.raises(BadItem, match="width and height are whole numbers above 0, got "):
            ImageFolder(FIXTURES / "coco", opened).look_up(["a.jpg"], size, "here", Notes())


def test_a_declared_size_may_be_written_as_a_float():
    found = ImageFolder(FIXTURES / "coco", False).look_up(["a.jpg"], (64.0, 48), "here", Notes())
    assert found == ("a.jpg", (64, 48))
