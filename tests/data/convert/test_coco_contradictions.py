"""COCO files that contradict themselves: ids given twice, boxes and shapes that differ, marks of tools."""

import json

import pytest

from pvit_ext.data.convert.base import SourceError
from tests.data.convert.truth import converted, read, reasons

DOG, CAT = {"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}
FIRST = {"id": 1, "file_name": "val2017/000000000101.jpg", "width": 64, "height": 48}
SECOND = {"id": 2, "file_name": "val2017/000000000103.jpg", "width": 80, "height": 40}
SQUARE = [[5, 5, 15, 5, 15, 15, 5, 15]]


def _object(number=1, **fields):
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": [5, 5, 10, 10], **fields}


def _file(tmp_path, annotations, images=(FIRST,), categories=(DOG, CAT), **more):
    path = tmp_path / "source.json"
    values = {"images": list(images), "annotations": annotations, "categories": list(categories), **more}
    path.write_text(json.dumps(values))
    return path


def _read(tmp_path, *annotations, **fields):
    """The objects of the first image, and the notes."""
    images, notes = read("coco", _file(tmp_path, list(annotations), **fields), "coco")
    return [one for found in images.values() for image in found for one in image.objects], notes


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"images": [FIRST, {**SECOND, "id": 1}]},
            r"image id 1 is given to two entries, with file_name '.*101\.jpg' and '.*103\.jpg'; renumber the ids",
        ),
        ({"images": [FIRST, {**FIRST, "width": 60}]}, "image id 1 is given to two entries, with width 64 and 60"),
        (
            {"images": [FIRST, {"id": 1, "coco_url": "http://x.org/val2017/9.jpg"}]},
            r"image id 1 is given to two entries, with coco_url '000000000101\.jpg' and '9\.jpg'",
        ),
        (
            {"categories": [DOG, CAT, {"id": 1, "name": "horse"}]},
            "category id 1 is given to two entries, with name 'dog' and 'horse'; renumber the ids",
        ),
    ],
)
def test_an_id_of_two_things_is_refused(tmp_path, fields, expected):
    with pytest.raises(SourceError, match=expected):
        _read(tmp_path, _object(), **fields)


def test_entries_that_stand_twice_are_read_once(tmp_path):
    entries = [_object(1), _object(2, category_id=2), _object(1)]
    address = {"id": 1, "coco_url": "http://images.cocodataset.org/val2017/000000000101.jpg"}  # as of LVIS
    images = [FIRST, SECOND, {**FIRST, "license": 3}, address]
    path = _file(tmp_path, entries, images, [DOG, CAT, {**DOG, "supercategory": "animal"}])
    records, report = converted(tmp_path, "coco", path, "coco")
    (record,) = records
    assert [one["label"] for one in record["source"]["objects"]] == ["dog", "cat"]
    assert report.dropped == {"duplicate": 3, "no_labels": 1}
    assert report.shown["duplicate"][:2] == [
        "source.json annotation 1: the same entry stands above",
        "source.json image 1: the same entry stands above",
    ]


def test_a_key_that_stands_twice_is_refused(tmp_path):
    path = _file(tmp_path, [_object()])
    path.write_text(path.read_text()[:-1] + f',\n"annotations": {json.dumps([_object(2)])}}}')
    with pytest.raises(
        SourceError, match=r"source\.json line 2: the key 'annotations' stands twice, with other content"
    ):
        converted(tmp_path, "coco", path, "coco")
    path.write_text(json.dumps({"info": {}})[:-1] + ', "info": {}, ' + _file(tmp_path, [_object()]).read_text()[1:])
    assert len(converted(tmp_path, "coco", path, "coco")[0]) == 1


def test_marks_of_tools_are_no_attributes(tmp_path):
    given = {"occluded": True, "rotation": 0.0, "track_id": 7, "keyframe": True, "colour": "red", "tags": ["a"], "n": 2}
    (one,), notes = _read(tmp_path, _object(attributes={**given, "empty": None, "other": ""}))
    assert one.attributes == ("occluded", "colour red", "n 2")
    assert notes.counts == {"attributes that are no flag, text or number, left out": 1}
    (one,), _ = _read(tmp_path, _object(attributes={"rotation": "left", "keyframe": "first", "track_id": "b"}))
    assert one.attributes == ("rotation left", "keyframe first", "track_id b")


def test_a_turned_box_is_turned(tmp_path):
    turned = _object(bbox=[30, 10, 20, 4], attributes={"rotation": 90.0})
    (one,), notes = _read(tmp_path, turned)
    assert one.region == [38, 2, 42, 22]
    assert notes.counts == {"boxes turned by their rotation": 1}
    turned["attributes"]["rotation"] = 45.0
    (one,), _ = _read(tmp_path, turned)
    assert one.region == {"polygon": [[34.343, 3.515, 48.485, 17.657, 45.657, 20.485, 31.515, 6.343]]}
    assert one.box == (31.515, 3.515, 48.485, 20.485)
    outlined = _object(segmentation=SQUARE, attributes={"rotation": 45.0})
    (one,), notes = _read(tmp_path, outlined)
    assert one.region == {"polygon": SQUARE}
    assert notes.counts == {"rotations beside a mask or outline, not applied": 1}
    _, notes = _read(tmp_path, _object(bbox=[30, 10, 0, 4], attributes={"rotation": 45.0}))
    assert reasons(notes) == {"degenerate": 1}


@pytest.mark.parametrize(
    ("segmentation", "counted"),
    [
        ({"size": [48, 64], "counts": [1500, 20, 1552]}, "masks or outlines that do not fit their box, kept as boxes"),
        ([[0, 0, 64, 0, 64, 48, 0, 48]], "masks or outlines that do not fit their box, kept as boxes"),
        ([[500, 500, 600, 500, 600, 600]], "masks or outlines of no use, kept as boxes"),
        ({"size": [48, 64], "counts": [3072]}, "masks or outlines of no use, kept as boxes"),
    ],
)
def test_a_shape_that_is_not_its_box_s_is_counted(tmp_path, segmentation, counted):
    (one,), notes = _read(tmp_path, _object(segmentation=segmentation))
    assert one.region == [5, 5, 15, 15]
    assert notes.counts[counted] == 1


def test_boxes_of_corners_are_bad_where_a_shape_shows_it(tmp_path):
    shape = [[32, 24, 60, 24, 60, 40, 32, 40]]
    objects, notes = _read(tmp_path, _object(bbox=[32, 24, 60, 40], segmentation=shape))
    assert (objects, reasons(notes)) == ([], {"bad": 1})
    assert "bbox [32, 24, 60, 40] is x0, y0, x1, y1, as its segmentation shows; COCO's is x, y, width" in (
        notes.drops[0].detail
    )
    (one,), notes = _read(tmp_path, _object(bbox=[1, 0, 16, 15], segmentation=[[1, 0, 16, 0, 16, 15, 1, 15]]))
    assert one.region["polygon"]  # the two readings differ by a pixel


def test_most_boxes_clipped_is_told(tmp_path):
    entries = [_object(number, bbox=[20 + number, 20, 40 + number, 40]) for number in range(1, 7)]
    _, report = converted(tmp_path, "coco", _file(tmp_path, entries), "coco")
    assert len([line for line in report.remarks if line.startswith("most boxes (6, of 6 objects) reach beyond")]) == 1
    entries = [_object(number, bbox=[20 + number, 20, 40 + number, 40 if number > 3 else 5]) for number in range(1, 7)]
    entries[:3] = [_object(number) for number in range(7, 10)]
    _, report = converted(tmp_path, "coco", _file(tmp_path, entries), "coco")
    assert report.remarks == []


def test_a_caption_of_a_shape_is_not_the_image_s(tmp_path):
    entry = {"id": 1, "image_id": 1, "caption": "a red thing", "segmentation": SQUARE, "category_id": 1}
    source = _file(tmp_path, [entry, {"id": 2, "image_id": 1, "caption": "A room."}])
    ((image,),) = read("coco", source, "coco")[0].values()
    assert image.captions == ("A room.",)
    assert [(one.captions, one.label, one.region) for one in image.objects] == [
        (("a red thing",), "dog", {"polygon": SQUARE})
    ]
    (tmp_path / "captions.json").write_text(source.read_text())
    settings = {"captions": str(tmp_path / "captions.json")}
    (record,), report = converted(tmp_path, "coco", _file(tmp_path, [_object()]), "coco", settings=settings)
    assert record["source"]["captions"] == ["A room."]
    assert report.remarks == ["coco: captions of 1 region in captions.json are not used: they are not of images"]


@pytest.mark.parametrize(
    ("value", "crowd"), [("0", 0), ("1", 1), (0, 0), (1, 1), (None, 0), (True, 1), ("false", 0), ("", 0), (1.0, 1)]
)
def test_crowds_as_text(tmp_path, value, crowd):
    objects, notes = _read(tmp_path, _object(iscrowd=value))
    assert (len(objects), reasons(notes)) == (1 - crowd, {"crowd": 1} if crowd else {})


def test_what_is_no_mark_of_a_crowd(tmp_path):
    _, notes = _read(tmp_path, _object(iscrowd="many"))
    assert "iscrowd is 0 or 1, got 'many'" in notes.drops[0].detail


@pytest.mark.parametrize("fields", [{"held": True}, {"tasks": ["attribute"]}])
def test_clipped_boxes_of_images_without_a_record_are_not_most_boxes(tmp_path, fields):
    entries = [_object(number, bbox=[20 + number, 20, 40 + number, 40]) for number in range(1, 7)]
    entries += [_object(number, image_id=2, attributes={"colour": "red"}) for number in range(7, 10)]
    entries += [_object(number, bbox=[number, 5, 10, 10]) for number in range(10, 20)]
    source = _file(tmp_path, entries, [FIRST, SECOND])
    (tmp_path / "held.txt").write_text(FIRST["file_name"])
    given = {"held_out": [tmp_path / "held.txt"]} if fields.get("held") else fields
    _, report = converted(tmp_path, "coco", source, "coco", **given)
    assert report.counts["images"] == 1
    assert not [line for line in report.remarks if line.startswith("most boxes")]
