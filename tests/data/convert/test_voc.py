"""Pascal VOC: both origins, parts, missing sizes, real files, damage."""

import shutil

import pytest
from PIL import Image

from pvit_ext.data.check import validate
from pvit_ext.data.convert.base import FORMATS, ReadOptions, SourceError
from pvit_ext.data.convert.image_folder import ImageFolder
from pvit_ext.regions.run_lengths import parse_run_lengths
from tests.data.convert.truth import FIXTURES, TRUTH, boxes_of, converted, objects_of, read, reasons

VOC = "voc/VOCdevkit/VOC2012"
NAMES = {"diningtable": "dining table"}


def test_boxes_are_the_scenes_counted_from_1():
    images, notes = read("voc", VOC, "voc")
    voc_classes = {"dining table", "person", "cup", "dog", "boat", "bird"}
    for name, scene in TRUTH["folders"]["voc"]["images"].items():
        ((image,),) = [images[name]]
        found = [(NAMES.get(label, label), box) for label, box in boxes_of(image)]
        truth = [one for one in objects_of(scene) if one[0] in voc_classes and one[0] != "bird"]
        assert [one for one in found if one[0] in voc_classes and one[1] != (60, 20, 80, 38)] == truth
    assert reasons(notes) == {"degenerate": 1}  # the inverted bird
    assert ("boat", (60, 20, 80, 38)) in boxes_of(images["VOCdevkit/VOC2012/JPEGImages/2012_000103.jpg"][0])
    assert notes.counts["boxes clipped to their image"] == 1


def test_the_origin_can_be_said():
    (image,) = read("voc", VOC, "voc", origin="0")[0]["VOCdevkit/VOC2012/JPEGImages/2012_000102.jpg"]
    assert ("person", (7, 5, 26, 60)) in boxes_of(image)


@pytest.mark.parametrize(
    ("change", "origin", "why"),
    [
        (("", ""), 1, "the source is PASCAL VOC, and no coordinate is 0"),
        (("<xmin>7<", "<xmin>0<"), 0, "2012_000102.xml has a coordinate 0"),
        (("PASCAL VOC2012", "Unknown"), 0, "2012_000101.xml does not name PASCAL VOC"),
    ],
)
def test_what_decides_the_origin(tmp_path, change, origin, why):
    for path in (FIXTURES / VOC / "Annotations").iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace(*change) if change[0] else path.read_text())
    (tmp_path / "out").mkdir()
    _, report = converted(tmp_path / "out", "voc", tmp_path, "voc")
    (remark,) = report.remarks
    assert f"counted from {origin}: {why}" in remark
    assert f"--set origin={1 - origin}" in remark


def test_split(tmp_path):
    images, _ = read("voc", VOC, "voc", split="val")
    listed = (FIXTURES / VOC / "ImageSets/Main/val.txt").read_text().split()
    assert sorted(name.split("/")[-1][:-4] for name in images) == sorted(listed)
    with pytest.raises(SourceError, match=r"nothing\.txt is not there; splits are dog_val, val"):
        converted(tmp_path, "voc", VOC, "voc", settings={"split": "nothing"})


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_with_a_byte_order_mark_and_an_image_without_a_file(tmp_path, encoding):
    shutil.copytree(FIXTURES / VOC, tmp_path / "voc")
    lists = tmp_path / "voc/ImageSets/Main"
    (lists / "mine.txt").write_text("2012_000101\r\n\n2012_000102  1\n2012_999\n", encoding=encoding)
    reader = FORMATS.require("voc")(tmp_path / "voc", ReadOptions(ImageFolder(tmp_path), {"split": "mine"}))
    assert [path.stem for path in reader.listed] == ["2012_000101", "2012_000102"]
    assert reader.remarks() == ["voc: no XML file for 1 image of the split's list: 2012_999"]


def test_real_photographs(tmp_path):
    records, report = converted(tmp_path, "voc", "bccd", "bccd")
    assert validate(tmp_path / "out.jsonl", FIXTURES / "bccd", check_images=True) == []
    assert report.dropped == {"degenerate": 1}  # a click, [504, 337, 504, 337]
    assert "BloodImage_00338.xml RBC" in report.shown["degenerate"][0]
    labels = {turn["value"] for record in records for turn in record["conversations"][1::2]}
    assert labels == {"RBC", "WBC"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<annotation><object>", r"a\.xml: not valid XML: .*expected VOC's <annotation>"),
        ("<annotation><size><width>x</width></size></annotation>", r"a\.xml: size is"),
        (
            "<annotation><object><name>a</name><bndbox><xmin>0.1</xmin><ymin>0.1</ymin><xmax>0.5</xmax><ymax>0.6</ymax>"
            "</bndbox></object></annotation>",
            r"a\.xml a: \[0\.1, .* fractions of the image's sides",
        ),
        ("<robot/>", "the root is <robot>"),
        (
            "<annotation><object><name>a</name><bndbox><xmin>1</xmin></bndbox></object></annotation>",
            r"a\.xml a: bndbox is .*expected four numbers",
        ),
        ('<?xml version="1.0" encoding="none"?><annotation/>', "not valid XML"),
    ],
)
def test_damage_is_named_with_its_file(tmp_path, text, expected):
    (tmp_path / "a.xml").write_text(text)
    (tmp_path / "a.jpg").write_bytes((FIXTURES / "coco/val2017/000000000101.jpg").read_bytes())
    with pytest.raises(SourceError, match=expected):
        converted(tmp_path, "voc", tmp_path / "a.xml", tmp_path)


def test_a_file_without_its_image_and_one_with_a_broken_image(tmp_path):
    text = (FIXTURES / VOC / "Annotations/2012_000101.xml").read_text()
    (tmp_path / "a.xml").write_text(text.replace("2012_000101.jpg", "a.jpg"))
    (tmp_path / "b.xml").write_text(text)
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    _, notes = read("voc", tmp_path, tmp_path)
    count = text.count("<object>")
    assert reasons(notes) == {"no_image": count, "broken_image": count}
    with pytest.raises(SourceError, match=r"gives no record as voc:(.|\n)*its image is not in the image folder"):
        converted(tmp_path, "voc", tmp_path, tmp_path)


FIRST = "VOCdevkit/VOC2012/JPEGImages/2012_000101.jpg"


def test_masks_of_segmentation_object():
    images, notes = read("voc", VOC, "voc", masks="yes")
    (image,) = images[FIRST]
    (truth,) = [one["mask"] for one in TRUTH["scenes"]["s1"]["objects"] if one["key"] == "dog"]
    (dog,) = [one for one in image.objects if one.label == "dog"]
    mask, true = (parse_run_lengths(one).decode() for one in (dog.region["mask"], truth))
    assert (mask <= true).all()  # the contour belongs to none
    assert mask.sum() > true.sum() / 2
    assert dog.box == (8, 16, 32, 40)
    assert notes.counts["images without SegmentationObject, kept with boxes"] == 2


def _segments(tmp_path, change):
    shutil.copytree(FIXTURES / VOC, tmp_path / "voc")
    path = tmp_path / "voc/SegmentationObject/2012_000101.png"
    with Image.open(path) as image:
        change(image).save(path)
    return tmp_path / "voc"


def test_segments_that_do_not_fit_are_told_about(tmp_path):
    _, notes = read(
        "voc", _segments(tmp_path, lambda image: image.point(lambda value: value and 1)), "voc", masks="yes"
    )
    assert notes.counts["segments that do not agree with their box, kept as boxes"] == 1
    assert notes.counts["objects without a segment, kept as boxes"] >= 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda image: image.convert("RGB"), r"2012_000101\.png: it holds no palette, its mode is RGB"),
        (lambda image: image.resize((48, 64)), r"2012_000101\.png: it is 48x64, its image 64x48"),
    ],
)
def test_damaged_segments_are_named(tmp_path, change, expected):
    with pytest.raises(SourceError, match=expected):
        converted(tmp_path, "voc", _segments(tmp_path, change), "voc", settings={"masks": "yes"})


def test_a_bad_size_is_of_its_file(tmp_path):
    shutil.copytree(FIXTURES / VOC / "Annotations", tmp_path / "voc")
    path = tmp_path / "voc/2012_000102.xml"
    path.write_text(path.read_text().replace("<width>", "<width>-"))
    with pytest.raises(SourceError, match=r"\n2012_000102\.xml: width and height are whole numbers above 0, got -"):
        converted(tmp_path, "voc", tmp_path / "voc", "voc")
