"""LVIS, PACO, LabelMe, Label Studio, CVAT: the scenes' regions, and what is awkward in each."""

import json

import numpy as np
import pytest

from pvit_ext.data.check import validate
from pvit_ext.data.convert.base import SourceError
from pvit_ext.regions.run_lengths import parse_run_lengths
from tests.data.convert.truth import FIXTURES, TRUTH, boxes_of, converted, objects_of, read, reasons


def _truth(scene, *without):
    return [one for one in objects_of(scene) if one[0] not in without]


def _mask_of(one):
    return parse_run_lengths(one.region["mask"]).decode()


def _true_mask(scene, key):
    (found,) = [one for one in TRUTH["scenes"][scene]["objects"] if one["key"] == key]
    return parse_run_lengths(found["mask"]).decode()


def test_lvis():
    images, notes = read("lvis", "lvis/lvis_v1_val.json", "lvis")
    names = {"ball": "sports ball", "street sign": "stop sign"}
    for name, scene in TRUTH["folders"]["lvis"]["images"].items():
        found = [(names.get(label, label), box) for label, box in boxes_of(images[name][0])]
        assert [box for _, box in found if box in dict(map(reversed, objects_of(scene)))]
        for label, box in objects_of(scene):
            if label in {"dog", "sports ball", "stop sign", "person", "cup", "boat", "bird"}:
                assert (label, box) in found
    assert not notes.drops


def test_names_are_cleaned_for_people(tmp_path):
    source = json.loads((FIXTURES / "lvis/lvis_v1_val.json").read_text())
    names = ["bow_(decorative_ribbons)", "monitor_(computer_equipment) computer_monitor", "street_sign"]
    source["categories"] = [{**one, "name": names[one["id"] % 3]} for one in source["categories"]]
    (tmp_path / "lvis.json").write_text(json.dumps(source))
    images, _ = read("lvis", tmp_path / "lvis.json", "lvis")
    found = {one.category: one.label for same in images.values() for image in same for one in image.objects}
    assert found[names[0]] == "bow"
    assert found[names[1]] == "monitor computer monitor"
    assert found[names[2]] == "street sign"


def test_paco_has_parts_and_attributes():
    images, notes = read("paco", "paco/paco_lvis_v1_val.json", "lvis")
    objects = {one.id: one for same in images.values() for image in same for one in image.objects}
    assert (objects["1"].label, objects["1"].attributes) == ("cup", ("yellow", "plain"))
    assert (objects["2"].label, objects["2"].category) == ("handle of a cup", "cup:handle")
    assert "mask" in objects["1"].region
    assert notes.counts["parts of objects"] >= 2


def test_labelme():
    images, notes = read("labelme", "labelme", "labelme")
    one, two, three = (images[f"scene{number}.jpg"][0] for number in (1, 2, 3))
    assert boxes_of(one) == objects_of("s1")
    by_label = {item.label: item for item in one.objects}
    assert (_mask_of(by_label["dog"]) == _true_mask("s1", "dog")).all()
    assert by_label["stop sign"].region == [40, 4, 60, 16]
    assert two.size == (48, 64)  # upright
    assert boxes_of(two) == objects_of("s2")
    person = next(item for item in two.objects if item.label == "person")
    assert len(person.region["polygon"]) == 2
    regions = [(item.label, item.region) for item in three.objects]
    assert regions[1] == ("bird", {"point": [71, 6]})
    assert regions[2] == ("horizon", {"scribble": [[0, 10], [80, 10]]})
    assert regions[3] == ("boat", [60, 20, 80, 38])
    assert not notes.drops


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('"shape_type": "rectangle"', '"shape_type": "blob"'), r"scene1\.json shapes\[2\]: shape_type 'blob' is none"),
        (('"mask": "iVBOR', '"mask": "?'), r"scene1\.json shapes\[0\]: mask is no PNG in base64"),
        (("60.0,", '"x",'), r"scene1\.json shapes\[2\]: a point is a list of 2 finite numbers"),
        (('"shapes"', '"forms"'), r"scene1\.json: not LabelMe's JSON: expected LabelMe's keys"),
        (('"version"', "version"), r"scene1\.json: not LabelMe's JSON"),
    ],
)
def test_labelme_damage_is_named(tmp_path, change, expected):
    (tmp_path / "scene1.json").write_text((FIXTURES / "labelme/scene1.json").read_text().replace(*change))
    with pytest.raises(SourceError, match=expected):
        converted(tmp_path, "labelme", tmp_path / "scene1.json", "labelme")


def _near(found, truth):
    assert [label for label, _ in found] == [label for label, _ in truth]
    for (_, one), (_, other) in zip(found, truth, strict=True):
        assert one == pytest.approx(other, abs=0.01)


def test_label_studio():
    images, notes = read("label_studio", "label_studio/project-1-at-2024-01-01.json", "label_studio")
    by_item = {image.item: image for same in images.values() for image in same}
    _near(boxes_of(by_item["1"]), objects_of("s1"))  # the sign was turned by 90 degrees
    brush = next(one for one in by_item["2"].objects if "mask" in one.region)
    assert (_mask_of(brush) == _true_mask("s2", "person")).all()
    _near([one for one in boxes_of(by_item["2"]) if one[0] != "person"], _truth("s2", "person"))
    assert by_item["2"].relations
    _near(boxes_of(by_item["3"]), [("boat", (10, 12, 50, 34)), ("boat", (60, 20, 80, 38))])
    assert reasons(notes) == {"cancelled": 1}


def test_label_studio_min():
    images, notes = read("label_studio", "label_studio/project-1-min.json", "label_studio")
    by_item = {image.item: image for same in images.values() for image in same}
    _near(boxes_of(by_item["1"]), objects_of("s1"))
    _near(boxes_of(by_item["2"]), [("cup", (30, 40, 40, 52))])  # the size is the image's own
    assert not notes.drops


def test_label_studio_of_another_annotator(tmp_path):
    with pytest.raises(SourceError, match=r"gives no record as label_studio"):
        converted(
            tmp_path,
            "label_studio",
            "label_studio/project-1-at-2024-01-01.json",
            "label_studio",
            settings={"annotator": "7"},
        )


def test_label_studio_brush_that_breaks_off(tmp_path):
    source = json.loads((FIXTURES / "label_studio/project-1-at-2024-01-01.json").read_text())
    value = source[1]["annotations"][0]["result"][0]["value"]
    value["rle"] = value["rle"][:50]
    (tmp_path / "source.json").write_text(json.dumps(source))
    with pytest.raises(SourceError, match=r"task 2 result 0: a brush's rle breaks off"):
        converted(tmp_path, "label_studio", tmp_path / "source.json", "label_studio")


def test_cvat_images():
    images, notes = read("cvat", "cvat/images/annotations.xml", "cvat/images")
    one, two, three = (images[f"images/{name}.jpg"][0] for name in ("scene1", "sub/scene2", "scene3"))
    _near(boxes_of(one), objects_of("s1"))
    dog = next(item for item in one.objects if item.label == "dog")
    assert (_mask_of(dog) == _true_mask("s1", "dog")).all()
    assert next(item for item in one.objects if item.label == "stop sign").attributes == ("text STOP",)
    assert boxes_of(two) == objects_of("s2")  # a cup was turned by 90 degrees about its centre
    person = next(item for item in two.objects if item.label == "person")
    assert len(person.region["polygon"]) == 2
    assert person.attributes == ("occluded",)
    assert {"point": [71, 6]} in [item.region for item in three.objects]
    assert [60, 20, 80, 38] in [item.region for item in three.objects]
    assert reasons(notes) == {"not_a_region": 1}  # the tag


def test_cvat_video():
    images, notes = read("cvat", "cvat/video", "cvat/video")
    found = {name.split("/")[-1]: boxes_of(same[0]) for name, same in images.items()}
    assert found == {
        "frame_000000.PNG": [("dog", (8, 16, 32, 40))],
        "frame_000001.PNG": [("dog", (9, 16, 33, 40)), ("sports ball", (44, 30, 54, 40))],
        "frame_000002.PNG": [],
    }
    assert reasons(notes) == {"hidden": 1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("</annotations>", ""), r"annotations\.xml: not valid XML"),
        (('xtl="40.00"', 'xtl="a"'), r"scene1\.jpg box 2: <box> has numbers xtl"),
        (('rle="8, 8', 'rle="8, 9'), r"scene1\.jpg mask 0: rle counts sum to 577, the mask is 24x24"),
        (("<tag ", "<blob "), r"scene3\.jpg tag 2|<blob> is no shape"),
        (('points="71.00,6.00"', 'points="71.00"'), r"points is x,y;x,y;"),
    ],
)
def test_cvat_damage_is_named(tmp_path, change, expected):
    text = (
        (FIXTURES / "cvat/images/annotations.xml")
        .read_text()
        .replace(*change)
        .replace("</tag>", "</blob>" if "blob" in change[1] else "</tag>")
    )
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(SourceError, match=expected):
        converted(tmp_path, "cvat", tmp_path / "annotations.xml", "cvat/images")


SOURCES = [
    ("lvis", "lvis/lvis_v1_val.json", "lvis"),
    ("paco", "paco/paco_lvis_v1_val.json", "lvis"),
    ("labelme", "labelme", "labelme"),
    ("label_studio", "label_studio/project-1-at-2024-01-01.json", "label_studio"),
    ("cvat", "cvat/images/annotations.xml", "cvat/images"),
    ("cvat", "cvat/video/annotations.xml", "cvat/video"),
    ("visual_genome", "visual_genome", "visual_genome"),
    ("refcoco", "refcoco/refcoco", "refcoco/images"),
    ("mdetr", "refcoco/mdetr_annotations/finetune_refcoco_val.json", "refcoco/images"),
    ("refcoco_jsonl", "refcoco/qwen_vl/refcoco_val.jsonl", "refcoco/images"),
    ("refcoco_parquet", "refcoco/jxu124/validation-00000-of-00001.parquet", "refcoco/images"),
    ("refcoco_parquet", "refcoco/lmms_lab", "refcoco/images"),
    ("flickr30k", "flickr30k_entities", "flickr30k_entities"),
]


@pytest.mark.parametrize(("name", "source", "folder"), SOURCES)
def test_records_train(tmp_path, name, source, folder):
    records, report = converted(tmp_path, name, source, folder, max_bad_records=1)
    assert records
    assert validate(tmp_path / "out.jsonl", FIXTURES / folder, check_images=True) == []
    assert report.counts["records"] == len(records)
    assert np.isclose(sum(len(one.get("regions", [])) for one in records), report.counts["regions"])
