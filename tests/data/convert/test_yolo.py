"""YOLO and YOLO-seg: every layout of folders, awkward rows, real files."""

import os
import shutil
from pathlib import Path

import pytest

from pvit_ext.data.check import validate
from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.detect import detect
from tests.data.convert.truth import FIXTURES, TRUTH, boxes_of, converted, objects_of, read, reasons


@pytest.mark.parametrize("source", ["yolo", "yolo/data.yaml"])
def test_boxes_are_the_scenes(source):
    images, notes = read("yolo", source, "yolo")
    for name, scene in TRUTH["folders"]["yolo"]["images"].items():
        found = [one for one in boxes_of(images[name][0]) if one[1] != (60, 20, 80, 38)]
        _same(found, objects_of(scene))
    assert ("boat", (60, 20, 80, 38)) in boxes_of(images["images/val/c.jpg"][0])
    assert reasons(notes) == {"duplicate": 1, "bad": 1}
    (bad,) = [drop for drop in notes.drops if drop.reason.name == "BAD"]
    assert (bad.location, bad.detail) == ("c.txt line 4", "class 9 has no name; names are of 0..7")
    assert all(images[f"images/val/{name}.jpg"][0].is_empty for name in ("empty", "no_label_file"))


def _same(found, truth):
    assert [label for label, _ in found] == [label for label, _ in truth]
    for (_, one), (_, other) in zip(found, truth, strict=True):
        assert one == pytest.approx(other, abs=0.05)


def test_outlines_are_the_scenes():
    images, notes = read("yolo", "yolo_seg/data.yaml", "yolo_seg")
    for name, scene in TRUTH["folders"]["yolo_seg"]["images"].items():
        _same(boxes_of(images[name][0]), objects_of(scene))
        kinds = {one.label: "polygon" in one.region for one in images[name][0].objects}
        assert kinds == {label: label != "bird" for label in kinds}  # the bird is a box in a file of outlines
    assert reasons(notes) == {"bad": 1}
    assert "c.txt line 3" in notes.drops[0].location


def test_images_without_labels_and_records(tmp_path):
    records, report = converted(tmp_path, "yolo", "yolo", "yolo", max_bad_records=1)
    assert len(records) == 3
    assert report.dropped["no_labels"] == 2
    assert validate(tmp_path / "out.jsonl", FIXTURES / "yolo", check_images=True) == []


def _layout(folder: Path, files: dict):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.write_bytes((FIXTURES / "coco/val2017/000000000101.jpg").read_bytes())
        else:
            path.write_text(text)
    return folder


ROW = "0 0.5 0.5 0.25 0.5\n"
LAYOUTS = {
    "labels beside, images elsewhere": (
        {"a/labels/t/1.txt": ROW, "p/images/t/1.jpg": None},
        "a/d.yaml",
        "p",
        "images/t",
    ),
    "one folder": ({"a/1.jpg": None, "a/1.txt": ROW, "a/classes.txt": "cat\n"}, "a", "a", None),
    "list file": (
        {"a/images/1.jpg": None, "a/labels/1.txt": ROW, "a/l.txt": "./images/1.jpg\n"},
        "a/d.yaml",
        "a",
        "l.txt",
    ),
    "roboflow": ({"a/train/images/1.jpg": None, "a/train/labels/1.txt": ROW}, "a/d.yaml", "a", "../train/images"),
    "folders inside": ({"a/images/x/1.jpg": None, "a/labels/x/1.txt": ROW}, "a/d.yaml", "a", "images"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    files, source, folder, train = LAYOUTS[layout]
    if train:
        files = {**files, "a/d.yaml": f"train: {train}\nnames: [cat]\n"}
    _layout(tmp_path, files)
    images, notes = read("yolo", tmp_path / source, tmp_path / folder)
    ((image,),) = images.values()
    assert boxes_of(image) == [("cat", (24, 12, 40, 36))]
    assert not notes.drops


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("0 0.5 0.5 0.25", "4 columns; expected 5 for a box"),
        ("0 240 100 30 50", "240 is no fraction of a side"),
        ("cat 0.5 0.5 0.1 0.1", "expected a class and fractions, got 'cat 0.5"),
        ("0 0.5 0.5 nan 0.1", "nan is no fraction"),
        ("7 0.5 0.5 0.1 0.1", r"class 7 has no name; names are of 0\.\.0"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path, row, expected):
    files = {"images/1.jpg": None, "labels/1.txt": ROW + row, "d.yaml": "train: images\nnames: [cat]\n"}
    _layout(tmp_path / "a", files)
    with pytest.raises(SourceError, match=rf"1\.txt line 2: {expected}"):
        converted(tmp_path, "yolo", tmp_path / "a/d.yaml", tmp_path / "a")


def test_sources_that_lack_something(tmp_path):
    files = {"images/1.jpg": None, "labels/1.txt": ROW, "labels/2.txt": ROW}
    _layout(tmp_path / "a", files)
    with pytest.raises(SourceError, match=r"names no classes: give data\.yaml"):
        converted(tmp_path, "yolo", tmp_path / "a", tmp_path / "a")
    records, report = converted(tmp_path, "yolo", tmp_path / "a", tmp_path / "a", settings={"names": "cat"})
    assert len(records) == 1
    assert report.dropped == {"no_image": 1}
    (tmp_path / "a/d.yaml").write_text("train: nowhere\nnames: [cat]\n")
    with pytest.raises(SourceError, match="nowhere is not there; looked for"):
        converted(tmp_path, "yolo", tmp_path / "a/d.yaml", tmp_path / "a")
    with pytest.raises(SourceError, match="has no split 'val'; it has: train"):
        converted(tmp_path, "yolo", tmp_path / "a/d.yaml", tmp_path / "a", settings={"split": "val"})
    (tmp_path / "a/d.yaml").write_text("train: [\n")
    with pytest.raises(SourceError, match="is no YAML"):
        converted(tmp_path, "yolo", tmp_path / "a/d.yaml", tmp_path / "a")


def test_real_photographs(tmp_path):
    _, report = converted(tmp_path, "auto", "aquarium/data.yaml", "aquarium")
    rows = sum(len(path.read_text().split("\n")) for path in (FIXTURES / "aquarium/train/labels").iterdir())
    assert report.counts["objects"] == rows
    assert not report.dropped
    assert validate(tmp_path / "out.jsonl", FIXTURES / "aquarium", check_images=True) == []


def test_a_part_of_data_yaml_that_is_absent_is_told_about(tmp_path):
    files = {"train/images/1.jpg": None, "train/labels/1.txt": ROW}
    _layout(tmp_path / "a", {**files, "d.yaml": "train: ../train/images\ntest: ../test/images\nnames: [cat]\n"})
    _, report = converted(tmp_path, "yolo", tmp_path / "a/d.yaml", tmp_path / "a")
    assert report.counts["records"] == 1
    (remark,) = report.remarks
    assert "../test/images is not there; looked for" in remark
    with pytest.raises(SourceError, match=r"\.\./test/images is not there"):
        converted(tmp_path, "yolo", tmp_path / "a/d.yaml", tmp_path / "a", settings={"split": "test"})


@pytest.mark.skipif("PVIT_EXT_DATA" not in os.environ, reason="PVIT_EXT_DATA names no folder of real data")
@pytest.mark.parametrize(
    ("source", "counts"),
    [
        ("object_detection", {"images": 254, "objects": 1827, "no_image": 12, "no_labels": 2}),
        ("instance_segmentation/config.yaml", {"images": 198, "objects": 1458, "no_labels": 58}),
    ],
)
def test_coco256(tmp_path, source, counts):
    folder = Path(os.environ["PVIT_EXT_DATA"], "coco256")
    assert detect(folder / source)[0].name == "yolo"
    _, report = converted(tmp_path, "auto", folder / source, folder)
    assert {key: (report.counts | report.dropped)[key] for key in counts} == counts
    assert validate(tmp_path / "out.jsonl", folder, check_images=True) == []


def test_another_yaml_file_in_the_folder_is_not_taken_for_data_yaml(tmp_path):
    shutil.copytree(FIXTURES / "yolo", tmp_path / "yolo")
    (tmp_path / "yolo/args.yaml").write_text("epochs: 3")
    first, _ = converted(tmp_path, "yolo", tmp_path / "yolo", tmp_path / "yolo", max_bad_records=1)
    (tmp_path / "yolo/data.yaml").rename(tmp_path / "yolo/things.yml")
    assert converted(tmp_path, "yolo", tmp_path / "yolo", tmp_path / "yolo", max_bad_records=1)[0] == first
