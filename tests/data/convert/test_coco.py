"""COCO: instances, captions, the awkward files, and run lengths against pycocotools."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from pvit_ext.data.check import validate
from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.source_key import from_source
from pvit_ext.data.records import load_records
from pvit_ext.data.schema import parse_record
from pvit_ext.regions.run_lengths import parse_run_lengths
from tests.data.convert.truth import FIXTURES, TRUTH, boxes_of, converted, objects_of, read, reasons

INSTANCES, CAPTIONS = "coco/annotations/instances_val2017.json", "coco/annotations/captions_val2017.json"
AWKWARD = "coco/annotations/instances_awkward.json"


def test_boxes_and_outlines_are_the_scenes():
    images, notes = read("coco", INSTANCES, "coco")
    for name, scene in TRUTH["folders"]["coco"]["images"].items():
        (image,) = images[name]
        assert boxes_of(image) == objects_of(scene)
        assert image.size == (TRUTH["scenes"][scene]["width"], TRUTH["scenes"][scene]["height"])
        parts = {one["label"]: one["polygons"] for one in TRUTH["scenes"][scene]["objects"] if not one["crowd"]}
        for one in image.objects:
            if one.label != "cup":  # there are two
                assert [np.reshape(part, (-1, 2)).tolist() for part in one.region["polygon"]] == parts[one.label]
    assert reasons(notes) == {"crowd": 1}
    assert notes.drops[0].location.endswith("annotation 900100003003")


def test_awkward_annotations_are_kept_clipped_or_counted():
    images, notes = read("coco", AWKWARD, "coco")
    found = {one.id: one for (image,) in images.values() for one in image.objects}
    assert sorted(found) == ["919", "920", "921"]
    assert len(found["919"].region["polygon"]) == 1  # the part of two points is left out
    assert found["921"].region == [60, 20, 80, 38]  # clipped, and its empty segmentation is none
    assert found["920"].region["mask"]["counts"].startswith("a=;o0f0E")
    assert found["920"].box == (6, 4, 26, 60)
    assert reasons(notes) == {"degenerate": 1, "bad": 2}
    problems = [drop.location + ": " + drop.detail for drop in notes.drops if drop.reason.name == "BAD"]
    assert "annotation 922" in problems[0]
    assert "category_id 12 is no id of 'categories'" in problems[0]
    assert "annotation 923" in problems[1]
    assert "image_id 999" in problems[1]


def test_fractions_among_pixels_are_bad_items(tmp_path):
    Image.new("RGB", (100, 80)).save(tmp_path / "a.jpg")
    boxes = [[5, 5, 30, 30], [0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]]
    entries = [{"id": number, "image_id": 1, "category_id": 1, "bbox": box} for number, box in enumerate(boxes)]
    image = {"id": 1, "file_name": "a.jpg", "width": 100, "height": 80}
    values = {"images": [image], "annotations": entries, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "coco.json").write_text(json.dumps(values))
    with pytest.raises(
        SourceError, match=r"annotation 1 \(line 1\): .* fractions of the image's sides; expected pixels"
    ):
        converted(tmp_path, "coco", tmp_path / "coco.json", tmp_path)
    records, report = converted(tmp_path, "coco", tmp_path / "coco.json", tmp_path, max_bad_records=1)
    assert ([one["regions"] for one in records], report.dropped) == ([[[5, 5, 35, 35]]], {"bad": 1, "degenerate": 1})


def test_captions_become_a_question_about_the_image(tmp_path):
    records, _ = converted(tmp_path, "coco", CAPTIONS, "coco")
    assert len(records) == 3
    for record in records:
        scene = TRUTH["folders"]["coco"]["images"][record["image"]]
        assert sorted(record["source"]["captions"]) == sorted(TRUTH["scenes"][scene]["captions"])
        assert record["conversations"][1]["value"] in TRUTH["scenes"][scene]["captions"]
        assert "regions" not in record


def test_captions_beside_instances(tmp_path):
    records, _ = converted(tmp_path, "coco", INSTANCES, "coco", settings={"captions": str(FIXTURES / CAPTIONS)})
    assert [len(record["source"]["captions"]) for record in records] == [5, 5, 5]
    assert all("<region>" in record["conversations"][0]["value"] for record in records)


def test_records_train_and_give_their_source_back(tmp_path):
    records, report = converted(tmp_path, "coco", INSTANCES, "coco")
    assert validate(tmp_path / "out.jsonl", FIXTURES / "coco", check_images=True) == []
    assert report.counts["records"] == len(records) == 3
    images, _ = read("coco", INSTANCES, "coco")
    for record in records:
        assert from_source(record) == images[record["image"]][0]
    assert load_records(tmp_path / "out.jsonl", FIXTURES / "coco").summary.regions == 9


def test_boxes_instead_of_outlines(tmp_path):
    records, _ = converted(tmp_path, "coco", INSTANCES, "coco", boxes=True)
    truth = {box for scene in TRUTH["scenes"] for _, box in objects_of(scene)}
    assert {tuple(region) for record in records for region in record["regions"]} == truth
    assert "polygon" in records[0]["source"]["objects"][0]["region"]


def test_run_lengths_are_those_of_pycocotools(tmp_path):
    rng = np.random.default_rng(0)
    annotations, masks = [], []
    for number in range(12):
        pixels = rng.random((48, 64)) < 0.3
        encoded = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
        box = coco_mask.toBbox(encoded).tolist()
        counts = encoded["counts"].decode()
        segmentation = {"size": [48, 64], "counts": counts}
        annotations.append(
            {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": box, "segmentation": segmentation}
        )
        masks.append(pixels)
    source = {
        "images": [{"id": 1, "file_name": "val2017/000000000101.jpg", "width": 64, "height": 48}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "source.json").write_text(json.dumps(source))
    images, notes = read("coco", tmp_path / "source.json", "coco")
    assert not notes.drops
    ((image,),) = images.values()
    for one, pixels in zip(image.objects, masks, strict=True):
        assert (parse_run_lengths(one.region["mask"]).decode() == pixels).all()


def _broken(tmp_path, change, source=INSTANCES):
    text = (FIXTURES / source).read_text()
    path = tmp_path / "source.json"
    path.write_text(change(text))
    return path


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text[: len(text) // 2], r"source\.json line 1: expected .* damaged or cut off"),
        (lambda text: text.replace('"images"', '"photos"'), "has 'images'; it has"),
        (lambda text: text.replace('"iscrowd": 0', '"iscrowd": nul'), r"not valid JSON"),
        (
            lambda text: text.replace('"bbox": [70.0,', '"bbox": [NaN,'),
            r"bbox is a list of 4 finite numbers, got \[nan",
        ),
        (lambda text: text.replace('"bbox": [70.0, 5.0, 2.0, 2.0]', '"bbox": [70.0, 5.0]'), "bbox is a list of 4"),
        (lambda text: text.replace("[[70.0, 5.0,", "[[70.0,"), "a polygon of segmentation is a list of an even number"),
        (lambda text: text.replace('"width": 80', '"width": "80"'), "'width' is a whole number, got '80'"),
    ],
)
def test_damage_is_named_with_its_place(tmp_path, change, expected):
    path = _broken(tmp_path, change)
    with pytest.raises(SourceError, match=expected):
        converted(tmp_path, "coco", path, "coco")
    assert [one.name for one in tmp_path.iterdir()] == ["source.json"]


def test_bad_items_are_survived_up_to_a_number(tmp_path):
    with pytest.raises(SourceError, match=r"2 bad items in .*--max_bad_records allows 1"):
        converted(tmp_path, "coco", AWKWARD, "coco", max_bad_records=1)
    records, report = converted(tmp_path, "coco", AWKWARD, "coco", max_bad_records=2)
    assert len(records) == 3
    assert report.bad == 2
    listed = [json.loads(line) for line in (tmp_path / "out.jsonl.dropped.jsonl").read_text().splitlines()]
    assert [one["reason"] for one in listed] == ["degenerate", "bad", "bad"]


def test_a_size_that_is_not_the_image_s_is_reported(tmp_path):
    path = _broken(tmp_path, lambda text: text.replace('"height": 64, "width": 48', '"height": 48, "width": 64'))
    _, notes = read("coco", path, "coco")
    (drop,) = [drop for drop in notes.drops if drop.reason.name == "SIZE_DIFFERS"]
    assert "is 48x64, said to be 64x48; its sides are exchanged" in drop.detail
    assert drop.count == 4


def test_hostile_texts_do_not_become_records(tmp_path):
    path = _broken(tmp_path, lambda text: text.replace('"boat"', '"<region> boat"').replace('"bird"', '"a <bbox>"'))
    records, report = converted(tmp_path, "coco", path, "coco", max_bad_records=9)
    assert len(records) == 2
    assert report.bad == 1
    assert all(parse_record(record, None) for record in records)


def test_panoptic_segments_are_refused_with_what_to_give(tmp_path):
    path = tmp_path / "panoptic.json"
    path.write_text('{"images": [], "annotations": [{"image_id": 1, "segments_info": []}], "categories": []}')
    with pytest.raises(SourceError, match=r"panoptic segments; give instances"):
        converted(tmp_path, "coco", path, "coco")


def test_captions_of_a_second_file_that_is_none_or_of_other_images(tmp_path):
    source = "coco/annotations/instances_val2017.json"
    for captions, expected in (
        (FIXTURES / "shikra/REC_ref3_train.jsonl", r"REC_ref3_train\.jsonl"),
        (FIXTURES / "gqa/val_sceneGraphs.json", r"val_sceneGraphs\.json holds no annotations; give a captions_"),
        (tmp_path / "none.json", r"none\.json: there is no such file"),
    ):
        with pytest.raises(SourceError, match=expected):
            converted(tmp_path, "coco", source, "coco", settings={"captions": str(captions)})
    other = {"annotations": [{"image_id": 7, "id": 1, "caption": "A boat."}]}
    (tmp_path / "captions.json").write_text(json.dumps(other))
    _, report = converted(tmp_path, "coco", source, "coco", settings={"captions": str(tmp_path / "captions.json")})
    assert "coco: captions of 1 image that instances_val2017.json does not list are not used" in report.remarks
