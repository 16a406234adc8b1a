"""CVAT: exports of projects, and points that are no pairs."""

import pytest
from PIL import Image

from pvit_ext.data.convert.base import SourceError
from tests.data.convert.truth import converted, read

EDGES = 'xtl="2" ytl="2" xbr="20" ybr="30"'


def _file(tmp_path, body, meta=""):
    (tmp_path / "annotations.xml").write_text(
        f"<annotations><version>1.1</version><meta>{meta}</meta>{body}</annotations>"
    )
    return tmp_path / "annotations.xml"


def _track(number, task, *frames):
    boxes = "".join(f'<box frame="{frame}" outside="0" occluded="0" {EDGES}/>' for frame in frames)
    return f'<track id="{number}" label="dog" task_id="{task}" subset="default">{boxes}</track>'


def _project(*tasks):
    sizes = "".join(
        f"<task><id>{task}</id><original_size><width>{width}</width><height>48</height></original_size></task>"
        for task, width in tasks
    )
    return f"<project><id>1</id><tasks>{sizes}</tasks></project>"


def test_frames_of_two_tasks_of_a_project_are_not_joined(tmp_path):
    source = _file(tmp_path, _track(0, 11, 0, 1) + _track(1, 12, 1, 2), _project((11, 64), (12, 64)))
    with pytest.raises(
        SourceError, match=r"frame 1 is of the tasks 11, 12, whose images bear one name.*each task alone"
    ):
        converted(tmp_path, "cvat", source, "cvat/video")


def test_frames_of_tasks_of_a_project_have_the_sizes_of_their_tasks(tmp_path):
    for number, width in ((0, 64), (1, 32)):
        Image.new("RGB", (width, 48)).save(tmp_path / f"frame_{number:06d}.png")
    source = _file(tmp_path, _track(0, 11, 0) + _track(1, 12, 1), _project((11, 64), (12, 32)))
    images, notes = read("cvat", source, tmp_path)
    assert {name: image.size for name, (image,) in images.items()} == {
        "frame_000000.png": (64, 48), "frame_000001.png": (32, 48),
    }  # fmt: skip
    assert not notes.drops


def test_images_of_a_project_lie_in_the_folder_of_their_subset(tmp_path):
    body = "".join(
        f'<image id="1" name="a.jpg" subset="{subset}" task_id="1"><box label="{subset}" {EDGES}/></image>'
        for subset in ("train", "val")
    )
    for folder in ("images/train", "images/val", "one"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (64, 48)).save(tmp_path / folder / "a.jpg")
    images, _ = read("cvat", _file(tmp_path, body), tmp_path / "images")
    found = [(name, image.objects[0].label) for name, (image,) in images.items()]
    assert found == [("train/a.jpg", "train"), ("val/a.jpg", "val")]
    with pytest.raises(SourceError, match=r"a\.jpg would be the image of both \w+/a\.jpg and"):
        converted(tmp_path, "cvat", _file(tmp_path, body), tmp_path / "one")


@pytest.mark.parametrize("points", ["1,2,3;4,5,6;7,8", "1,2,3;4,5", "1;2;3;4;5;6", "1,2;3,4;5,6;", "1,2;3,4;5,x"])
def test_points_are_pairs(tmp_path, points):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
    shapes = "".join(f'<{shape} label="dog" points="{points}"/>' for shape in ("polygon", "polyline"))
    _, notes = read("cvat", _file(tmp_path, f'<image id="0" name="a.jpg">{shapes}</image>'), tmp_path)
    assert [drop.detail for drop in notes.drops] == [f"points is x,y;x,y;..., got {points!r}"] * 2
