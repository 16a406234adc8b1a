"""Label Studio: tasks with several images, rows of JSON-MIN of one task, and answers that are not read."""

import json

import pytest
from PIL import Image

from tests.data.convert.truth import read, reasons

SIZES = {"original_width": 64, "original_height": 48}
UNREAD = "answers and other fields that are not read"


def _box(label, x=10, **fields):
    return {"x": x, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": [label], **fields}


def _result(name, label, to_name="image", x=10, **fields):
    kind = {"from_name": "label", "to_name": to_name, "type": "rectanglelabels"}
    return {"id": name, **kind, **SIZES, "value": _box(label, x), **fields}


def _read(tmp_path, *items, **settings):
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    (tmp_path / "source.json").write_text(json.dumps(items))
    images, notes = read("label_studio", tmp_path / "source.json", tmp_path, **settings)
    return {name: [[one.label for one in image.objects] for image in found] for name, found in images.items()}, notes


def _task(data, *results):
    return {"id": 1, "data": data, "annotations": [{"id": 5, "completed_by": 1, "result": results}]}


TWO = {"img1": "/data/upload/1/0a1b2c3d-a.jpg", "img2": "/data/upload/1/0a1b2c3d-b.jpg"}


@pytest.mark.parametrize(
    ("data", "results", "found", "dropped"),
    [
        (TWO, [_result("1", "dog", "img1"), _result("2", "cat", "img2")], {"a.jpg": [["dog"]]}, 1),
        (TWO, [_result("2", "cat", "img2"), _result("1", "dog", "img1")], {"b.jpg": [["cat"]]}, 1),
        (TWO, [_result("2", "cat", "img2")], {"b.jpg": [["cat"]]}, 0),
        (TWO, [_result("1", "dog", "left"), _result("2", "cat", "right")], {"a.jpg": [[]]}, 2),
        (TWO, [_result("1", "dog", "left")], {"a.jpg": [["dog"]]}, 0),
        ({"image": "a.jpg"}, [_result("1", "dog"), _result("2", "cat", "x")], {"a.jpg": [["dog", "cat"]]}, 0),
        (
            {"image": "a.jpg", "pages": ["/a.jpg", "/b.jpg"]},
            [_result("1", "dog", item_index=0), _result("2", "cat", item_index=1)], {"a.jpg": [["dog"]]}, 1,
        ),
        ({"image": "a.jpg", "note": "http://[no address"}, [_result("1", "dog")], {"a.jpg": [["dog"]]}, 0),
    ],
)  # fmt: skip
def test_shapes_of_another_image_of_a_task(tmp_path, data, results, found, dropped):
    text = {"id": "2", "type": "textarea", "value": {"text": ["a cat"]}}
    images, notes = _read(tmp_path, _task(data, *results, text))
    assert images == found
    assert reasons(notes) == ({"incomplete": dropped} if dropped else {})
    assert all("of another image of its task than" in drop.detail for drop in notes.drops)
    unknown = dropped == 2  # no field is called as the images of the labelling interface
    assert all(("its to_name is no field" in drop.detail) == unknown for drop in notes.drops)


def _row(annotator, *shapes, **fields):
    row = {"image": "a.jpg", "id": 1, "label": [{**one, **SIZES} for one in shapes], "annotator": annotator}
    return {**row, "annotation_id": annotator, **fields}


FIRST, SECOND = _row(1, _box("dog"), _box("cup", 60)), _row(2, _box("bird", 50))


@pytest.mark.parametrize(
    ("rows", "settings", "found", "dropped"),
    [
        ([FIRST, SECOND], {}, ["bird"], 2),
        ([FIRST, SECOND], {"annotator": "1"}, ["dog", "cup"], 1),
        ([FIRST, SECOND], {"annotator": "2"}, ["bird"], 2),
        ([{**FIRST, "created_at": "2024-02-01"}, {**SECOND, "created_at": "2024-01-01"}], {}, ["dog", "cup"], 1),
        ([FIRST, {**SECOND, "was_cancelled": True}], {}, ["dog", "cup"], 1),
        ([{**FIRST, "annotator": {"id": 3, "email": "x@y.org"}}, SECOND], {"annotator": "x@y.org"}, ["dog", "cup"], 1),
    ],
)
def test_one_row_of_json_min_a_task(tmp_path, rows, settings, found, dropped):
    person = settings.get("annotator", "1")
    other = {**SECOND, "id": 2, "image": "b.jpg", "annotator": int(person) if person.isdigit() else person}
    images, notes = _read(tmp_path, *rows, other, **settings)
    assert images == {"a.jpg": [found], "b.jpg": [["bird"]]}
    assert reasons(notes) == {"cancelled": dropped}


def test_tasks_of_two_projects_in_one_file_may_bear_one_number(tmp_path):
    images, notes = _read(tmp_path, FIRST, {**SECOND, "image": "b.jpg"})
    assert (images, reasons(notes)) == ({"a.jpg": [["dog", "cup"]], "b.jpg": [["bird"]]}, {})


def test_rows_without_a_task_are_all_read(tmp_path):
    rows = [{key: value for key, value in row.items() if key != "id"} for row in (FIRST, SECOND)]
    assert _read(tmp_path, *rows)[0] == {"a.jpg": [["dog", "cup"], ["bird"]]}


@pytest.mark.parametrize(
    ("shapes", "labels"),
    [
        ([_box("dog"), _box("cat")], ["dog", "cat"]),
        ([_box("dog"), _box("cat", rotation=45)], ["dog", "cat"]),
        ([_box("dog"), _box("dog")], ["dog"]),
    ],
)
def test_shapes_with_the_same_numbers_in_json_min(tmp_path, shapes, labels):
    images, notes = _read(tmp_path, _row(1, *shapes))
    assert images == {"a.jpg": [labels]}
    assert notes.counts["shapes said twice, kept once"] == len(shapes) - len(labels)


def test_what_is_not_read_of_json_min_is_counted(tmp_path):
    fields = {"caption": "a very good dog", "quality": ["clear", "sharp"], "mood": {"choices": ["x"]}, "none": None}
    images, notes = _read(tmp_path, _row(1, _box("dog"), created_at="x", updated_at="x", lead_time=1, **fields))
    assert images == {"a.jpg": [["dog"]]}
    assert notes.counts[UNREAD] == 4


def test_answers_about_a_region_that_are_not_read_are_counted(tmp_path):
    rating = {"id": "1", "type": "rating", "value": {"rating": 4}}
    number = {"id": "1", "type": "number", "value": {"number": 7}}
    of_image = {"id": "x", "type": "rating", "value": {"rating": 4}}
    _, notes = _read(tmp_path, _task({"image": "a.jpg"}, _result("1", "dog"), rating, number, of_image))
    assert notes.counts[UNREAD] == 2
    assert notes.counts["answers about the image, left out"] == 1
