"""Photographs of evaluation data: told by number, and left out of what is converted."""

import json

import pytest

from pvit_ext import cli
from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.held_out import HeldOut, photographs, read_held_out
from tests.data.convert.truth import FIXTURES, converted

REFS = FIXTURES / "refcoco/refcoco/refs(unc).p"
VG = ("visual_genome", "visual_genome", "visual_genome")
RECORD = {"image": "train2017/000000000102.jpg", "conversations": []}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train2017/000000391895.jpg", ["coco 391895"]),
        ("COCO_val2014_000000391895.jpg", ["coco 391895"]),
        ("x/COCO_train2014_000000391895_12.jpg", ["coco 391895"]),
        ("http://images.cocodataset.org/val2017/000000391895.jpg", ["coco 391895"]),
        ("VG_100K_2/2331.jpg", ["visual genome 2331"]),
        ("COCO_val2014_000000391895", ["coco 391895"]),
        ("000000391895", ["coco 391895"]),
        ("7391895.jpg", []),
        ("0000003918950.jpg", []),
        ("mine/IMG_000000391895_jpg.rf.ab.jpg", []),
        ("", []),
    ],
)
def test_photographs(name, expected):
    assert photographs(name) == expected


def test_cocos_number_of_a_image_of_another_name():
    assert photographs("VG_100K/1.jpg", 7) == ["coco 7", "visual genome 1"]
    held_out = HeldOut({"coco 7": "somebody"})
    assert "coco 7, which somebody needs" in held_out.reason(["a.jpg"], 7)
    assert held_out.reason(["a.jpg"]) is None
    assert held_out.reason_for({"image": "a.jpg", "source": {"coco_id": 7}})
    assert held_out.reason_for({"image": ["b.jpg", "000000000007.jpg"]})
    for harmless in (
        {},
        {"image": None},
        {"image": "a.jpg", "source": "me"},
        {"image": "a.jpg", "source": {"coco_id": "7"}},
    ):
        assert held_out.reason_for(harmless) is None


def test_cocos_val_is_told_by_its_name():
    held_out = HeldOut(coco_val=True)
    assert "COCO's val" in held_out.reason(["coco/val2017/000000000001.jpg"])
    assert "COCO's val" in held_out.reason(["COCO_val2014_000000000001.jpg"])
    assert held_out.reason(["val/1.jpg"]) is None
    assert HeldOut().reason(["val2017/000000000001.jpg"]) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", json.dumps(RECORD) + "\n"),
        ("a.json", json.dumps([RECORD], indent=1)),
        ("coco.json", '{"annotations": [], "images": [{"id": 1, "file_name": "COCO_val2014_000000000102.jpg"}]}'),
        ("pope.json", '{"question_id": 1, "image": "COCO_val2014_000000000102.jpg", "text": "?", "label": "no"}\n'),
        ("ids.jsonl", '{"image_id": 102}\n'),
        ("names.txt", "000000000102.jpg\n\nnothing\n"),
    ],
)
def test_files_of_evaluation_data(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    expected = {"coco 102": name} | ({"the file nothing": name} if name == "names.txt" else {})
    assert read_held_out([tmp_path / name]) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_names_of_other_images_and_a_byte_order_mark(tmp_path, encoding):
    path = tmp_path / "names.txt"
    path.write_text("000000000102.jpg\nflickr_123.jpg\nval/0001.png\n\n36979\n", encoding=encoding)
    held_out = HeldOut(read_held_out([path]))
    for image in ("coco/000000000102.jpg", "flickr_123.jpg", "a/b/flickr_123.jpg", "set/val/0001.png", "0001.png"):
        assert "which names.txt needs" in held_out.reason([image])
    assert held_out.reason(["x.jpg", "f/36979.jpg"]) == "f/36979.jpg is the file 36979, which names.txt needs"
    for image in ("my_flickr_123.jpg", "flickr_123.png", "train/0001.png", "val/0001.png/2.jpg", "136979.jpg"):
        assert held_out.reason([image]) is None
    (tmp_path / "latin.txt").write_bytes(b"\xfc.jpg")
    with pytest.raises(ValueError, match=r"latin\.txt is not UTF-8 text"):
        read_held_out([tmp_path / "latin.txt"])


COCO_NAMES = ["train2017/000000391895.jpg", "COCO_train2014_000000391895.jpg"]


@pytest.mark.parametrize(
    ("name", "text", "images"),
    [
        ("names.txt", "391895\n", [*COCO_NAMES, "VG_100K/391895.jpg", "x/391895.png"]),
        ("names.txt", "COCO_val2014_000000391895\n", COCO_NAMES),
        ("names.txt", "000000391895\n", COCO_NAMES),
        ("names.txt", "000000391895 -1\n", COCO_NAMES),
        ("names.txt", "2007_000032  1\nmy photo 2\n", ["JPEGImages/2007_000032.jpg", "my photo 2.jpg"]),
        ("ids.jsonl", '{"image_id": "391895"}', [*COCO_NAMES, "391895.jpg"]),
        ("ids.jsonl", '{"image_id": "COCO_val2014_000000391895"}', COCO_NAMES),
        *(("a.jsonl", json.dumps({key: "a.jpg"}), ["x/a.jpg"]) for key in ("img_name", "img_file", "filename")),
        ("a.jsonl", '{"image_paths": ["a.jpg"]}', ["a.jpg"]),
    ],
)
def test_names_without_a_suffix_and_numbers(tmp_path, name, text, images):
    (tmp_path / name).write_text(text)
    held_out = HeldOut(read_held_out([tmp_path / name]))
    assert all(held_out.reason([image]) for image in images)
    assert "391895" not in text or held_out.reason(["VG_100K/1.jpg"], 391895)
    assert not held_out.reason(["VG_100K/1.jpg", "train2017/000000391896.jpg"], 7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("102\n7\n000000000008 1\n", "--held-out: 1 of 3 photographs that it names met an image; not met: 7, "),
        ("7\nb/c.jpg\n", "WARNING: --held-out: none of 2 photographs that it names met an image: 7, b/c.jpg; give "),
        ("102\n", None),
    ],
)
def test_names_that_met_no_image_are_counted(tmp_path, text, said):
    (tmp_path / "names.txt").write_text(text)
    _, report = converted(tmp_path, *VG, held_out=[tmp_path / "names.txt"])
    found = [remark for remark in report.remarks if "--held-out" in remark]
    assert found == [] if said is None else found[0].startswith(said)


@pytest.mark.parametrize("record", [{"image": None, "file_name": "b/a.jpg"}, {"images": ["x.jpg", "a.jpg"]}])
def test_a_record_that_names_its_image_otherwise(tmp_path, record):
    (tmp_path / "a.jsonl").write_text(json.dumps(record))
    assert HeldOut(read_held_out([tmp_path / "a.jsonl"])).reason(["a.jpg"])


def test_the_parts_of_a_pickle_but_for_train():
    assert sorted(read_held_out([REFS])) == ["coco 102", "coco 103"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"picture": "a.jpg"}\n', "names no image: give refs"),
        ("a.jsonl", '["image"]\n', "names no image"),
        ("empty.txt", "", "names no image"),
        ("a.jsonl", '{"image": \n', r"a\.jsonl line 1: not valid JSON"),
        ("refs.p", "no pickle", "is no pickle, or damaged"),
        ("coco.json", '{"images": [{"id": 1, "file_name"', "coco"),
    ],
)
def test_files_that_are_none(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_held_out([tmp_path / name])
    with pytest.raises(ValueError, match="there is no such file"):
        read_held_out([tmp_path / "other.txt"])


def test_refcoco_is_its_train_part_unless_asked_for_otherwise(tmp_path):
    source = ("refcoco", "refcoco/refcoco", "refcoco/images")
    records, report = converted(tmp_path, *source)
    assert [one["source"]["item"] for one in records] == ["101"]
    assert report.dropped["held_out"] >= 2
    assert "refcoco 102" not in report.shown["held_out"][0]
    assert "of val; --no-exclude-leaks keeps it" in " ".join(report.shown["held_out"])
    assert report.held_out == {"coco 102": "refcoco refs(unc) val", "coco 103": "refcoco refs(unc) testB"}
    assert len(converted(tmp_path, *source, exclude_leaks=False)[0]) == 3
    records, _ = converted(tmp_path, *source, settings={"split": "testB"})
    assert [one["source"]["item"] for one in records] == ["103"]
    with pytest.raises(SourceError, match=r"an image that evaluation needs(.|\n)*--no-exclude-leaks"):
        converted(tmp_path, "refcoco", "refcoco/refcocog", "refcoco/images", settings={"by": "umd"})


def test_visual_genome_by_cocos_number(tmp_path):
    records, report = converted(tmp_path, *VG, held_out=[REFS])
    assert report.dropped["held_out"] > 0
    assert "VG_100K_2/2.jpg is coco 102, which refs(unc).p needs" in report.shown["held_out"][0]
    assert {one["image"] for one in records} == {"VG_100K/1.jpg", "VG_100K/3.jpg"}
    records, _ = converted(tmp_path, *VG)
    assert [one["source"].get("coco_id") for one in records if "source" in one] == [None, 102, None]


def test_command(tmp_path, capsys):
    words = ["data", "convert", "visual_genome", str(FIXTURES / "visual_genome"), "--image-folder"]
    words += [str(FIXTURES / "visual_genome"), "--out", str(tmp_path / "out.jsonl"), "--held-out"]
    assert cli.main([*words, str(REFS)]) == 0
    assert "an image that evaluation needs" in capsys.readouterr().out
    assert cli.main([*words, "nowhere.p"]) == 2
    assert "--held-out nowhere.p: there is no such file" in capsys.readouterr().err
