"""What a source holds beside what most sources do: it is read, or it is counted; never left out without a word."""

import json
import shutil

import pytest
from PIL import Image

from pvit_ext.data.check import validate
from pvit_ext.data.convert.annotation import Relation
from pvit_ext.data.convert.base import SourceError
from tests.data.convert.truth import FIXTURES, changed, converted, read, reasons, texts_of

EXPORT = "label_studio/project-1-at-2024-01-01.json"
SIZES = {"original_width": 64, "original_height": 48}
BOX = {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0}


def _voc(folder, name):
    for part in ("Annotations", "JPEGImages"):
        (folder / part).mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(folder / f"JPEGImages/{name}.jpg")
    box = "<xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax>"
    text = f"<annotation><object><name>cat</name><bndbox>{box}</bndbox></object></annotation>"
    (folder / f"Annotations/{name}.xml").write_text(text)


@pytest.mark.parametrize("names", [("000001", "2007_000027"), ("000001", "000001")])
def test_voc_of_several_years(tmp_path, names):
    for year, name in zip(("VOC2007", "VOC2012"), names, strict=True):
        _voc(tmp_path / "VOCdevkit" / year, name)
    records, report = converted(tmp_path, "voc", tmp_path / "VOCdevkit", tmp_path / "VOCdevkit")
    assert [record["image"] for record in records] == [
        f"{year}/JPEGImages/{name}.jpg" for year, name in zip(("VOC2007", "VOC2012"), names, strict=True)
    ]
    assert len({record["id"] for record in records}) == 2
    assert report.counts["objects"] == 2


def test_a_split_of_voc_in_one_of_two_years(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        _voc(tmp_path / "VOCdevkit" / year, f"{year}_1")
    lists = tmp_path / "VOCdevkit/VOC2012/ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("VOC2012_1\n")
    folder = tmp_path / "VOCdevkit"
    records, _ = converted(tmp_path, "voc", folder, folder, settings={"split": "val"})
    assert [record["id"] for record in records] == ["voc/VOC2012_1"]
    with pytest.raises(SourceError, match=r"train\.txt is not there; splits are val"):
        converted(tmp_path, "voc", folder, folder, settings={"split": "train"})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[]", "names no classes"),
        ("cat", "names is a list, or a map from numbers to names, got 'cat'"),
        ("{a: cat}", "names is a map from whole numbers"),
    ],
)
def test_yolo_names_that_name_nothing(tmp_path, names, expected):
    shutil.copytree(FIXTURES / "yolo", tmp_path / "yolo")
    lines = [line for line in (tmp_path / "yolo/data.yaml").read_text().splitlines() if line.startswith(("path", "tr"))]
    (tmp_path / "yolo/data.yaml").write_text("\n".join([*lines, f"names: {names}"]))
    with pytest.raises(SourceError, match=expected):
        converted(tmp_path, "yolo", tmp_path / "yolo/data.yaml", tmp_path / "yolo")


def test_a_class_of_yolo_that_is_no_whole_number(tmp_path):
    shutil.copytree(FIXTURES / "yolo", tmp_path / "yolo")
    labels = next((tmp_path / "yolo").rglob("labels/**/*.txt"))
    labels.write_text("0.7 0.5 0.5 0.2 0.2\n")
    with pytest.raises(SourceError, match=rf"{labels.name} line 1: class 0\.7 has no name"):
        converted(tmp_path, "yolo", tmp_path / "yolo/data.yaml", tmp_path / "yolo")


def _task(tmp_path, *results, **fields):
    task = {"id": 1, "data": {"image": "/data/upload/1/scene1.jpg"}, "annotations": [{"id": 2, "result": results}]}
    Image.new("RGB", (64, 48)).save(tmp_path / "scene1.jpg")
    (tmp_path / "source.json").write_text(json.dumps([{**task, **fields}]))
    return tmp_path / "source.json"


def _result(kind, name, value, **fields):
    return {"type": kind, "id": name, "value": value, **SIZES, **fields}


def test_label_studio_says_label_text_and_choice_of_a_region_apart(tmp_path):
    source = _task(
        tmp_path,
        _result("rectangle", "a", BOX),
        _result("labels", "a", {**BOX, "labels": ["Sign"]}),
        _result("textarea", "a", {**BOX, "text": ["STOP", "now"]}),
        _result("choices", "a", {**BOX, "choices": ["legible"]}),
        _result("choices", "of the image", {"choices": ["outdoors"]}),
    )
    images, notes = read("label_studio", source, tmp_path)
    (one,) = images["scene1.jpg"][0].objects
    assert (one.label, one.captions, one.attributes) == ("Sign", ("STOP now",), ("legible",))
    assert notes.counts["answers about the image, left out"] == 1


@pytest.mark.parametrize(
    ("direction", "pairs"), [("right", {(0, 1)}), ("left", {(1, 0)}), ("bi", {(0, 1), (1, 0)}), (None, {(0, 1)})]
)
def test_relations_of_label_studio_have_a_direction(tmp_path, direction, pairs):
    boxes = [_result("rectanglelabels", name, {**BOX, "rectanglelabels": [name]}) for name in "ab"]
    relation = {"type": "relation", "from_id": "a", "to_id": "b", "direction": direction, "labels": ["on"]}
    other = {"type": "relation", "from_id": "a", "to_id": "b"}
    images, notes = read("label_studio", _task(tmp_path, *boxes, relation, other), tmp_path)
    assert set(images["scene1.jpg"][0].relations) == {Relation(first, "on", second) for first, second in pairs}
    assert notes.counts["relations without a label, or of a region that was left out"] == 1


def test_percent_is_of_the_image_that_is_there(tmp_path):
    box = _result("rectanglelabels", "a", {**BOX, "rectanglelabels": ["cup"]})
    smaller = _task(tmp_path, {**box, "original_width": 640, "original_height": 480})
    images, notes = read("label_studio", smaller, tmp_path)
    assert images["scene1.jpg"][0].objects[0].box == (16, 12, 48, 36)
    assert not notes.drops
    turned = _task(tmp_path, {**box, "original_width": 48, "original_height": 64})
    assert reasons(read("label_studio", turned, tmp_path)[1]) == {"size_differs": 1}


def test_a_task_that_nobody_annotated(tmp_path):
    _, notes = read("label_studio", _task(tmp_path, annotations=[]), tmp_path)
    assert reasons(notes) == {"no_labels": 1}


def test_two_controls_of_one_shape_in_json_min(tmp_path):
    _task(tmp_path)
    shape = {**BOX, **SIZES}
    outline = {"points": [[10, 10], [50, 10], [50, 60]], **SIZES}
    item = {
        "id": 1, "image": "/data/upload/1/scene1.jpg", "annotator": 1, "annotation_id": 2,
        "bbox": [shape], "label": [{**shape, "labels": ["Sign"]}, {**outline, "labels": ["Hat"]}],
    }  # fmt: skip
    (tmp_path / "min.json").write_text(json.dumps([item]))
    images, _ = read("label_studio", tmp_path / "min.json", tmp_path)
    found = [(one.label, "polygon" in one.region) for one in images["scene1.jpg"][0].objects]
    assert found == [("Sign", False), ("Hat", True)]


def test_a_frame_of_cvat_that_is_no_number(tmp_path):
    text = (FIXTURES / "cvat/video/annotations.xml").read_text().replace('frame="0"', 'frame="first"', 1)
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(SourceError, match=r"annotations\.xml: track \d+: frame is a whole number, got 'first'"):
        converted(tmp_path, "cvat", tmp_path / "annotations.xml", "cvat/video")


def test_sentences_about_what_instances_json_lacks(tmp_path):
    shutil.copytree(FIXTURES / "refcoco/refcoco", tmp_path / "refcoco")
    path = tmp_path / "refcoco/instances.json"
    source = json.loads(path.read_text())
    everything, _ = converted(tmp_path, "refcoco", tmp_path / "refcoco", "refcoco/images", exclude_leaks=False)
    named = next(one for one in everything if one["source"]["objects"])["source"]["objects"][0]["id"]
    gone = everything[-1]["source"]["item"]
    source["annotations"] = [one for one in source["annotations"] if str(one["id"]) != named]
    source["images"] = [one for one in source["images"] if str(one["id"]) != gone]
    path.write_text(json.dumps(source))
    _, report = converted(tmp_path, "refcoco", tmp_path / "refcoco", "refcoco/images", exclude_leaks=False)
    assert report.dropped["incomplete"] == 1
    assert any(f"no annotation {named} of this" in line for line in report.shown["incomplete"])
    assert any(f"lacks 1 image that refs(unc).p is about, such as {gone}" in line for line in report.remarks)


def test_rows_of_val_in_a_folder_of_parquet_are_held_out(tmp_path):
    pytest.importorskip("pyarrow")
    folder, images = "refcoco/jxu124", "refcoco/images"
    with pytest.raises(SourceError, match=r"of val; --set split=val or --no-exclude-leaks keeps it"):
        converted(tmp_path, "refcoco_parquet", folder, images)
    for fields in ({"settings": {"split": "val"}}, {"exclude_leaks": False}):
        assert len(converted(tmp_path, "refcoco_parquet", folder, images, **fields)[0]) == 1
    assert converted(tmp_path, "refcoco_parquet", f"{folder}/validation-00000-of-00001.parquet", images)[0]
    with pytest.raises(SourceError, match="not in the split"):
        converted(tmp_path, "refcoco_parquet", folder, images, settings={"split": "train"})


def _visual_genome(tmp_path, **parts):
    images = [{"image_id": 1, "url": "x/VG_100K/1.jpg", "width": 64, "height": 48}]
    for name, value in {"image_data": images, **parts}.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    return read("visual_genome", tmp_path, "visual_genome")


def test_objects_of_visual_genome_are_dropped_once_and_said_twice_are_joined(tmp_path):
    flat = {"object_id": 7, "x": 1, "y": 1, "w": 0, "h": 5, "names": ["line"]}
    dog = {"object_id": 8, "x": 8, "y": 16, "w": 24, "h": 24, "names": ["dog"]}
    images, notes = _visual_genome(
        tmp_path,
        objects=[{"image_id": 1, "objects": [flat]}, {"image_id": 1, "objects": [dog]}],
        attributes=[{"image_id": 1, "attributes": [{**flat, "attributes": ["thin"]}]}],
        question_answers=[
            {"id": 1, "qas": [{"qa_id": 1, "question": "What?", "answer": "It.", "q_objects": [{**flat, "name": "x"}]}]}
        ],
    )
    assert [one.label for one in images["VG_100K/1.jpg"][0].objects] == ["dog"]
    assert reasons(notes) == {"degenerate": 1}
    assert notes.counts["objects of questions that are not known, or not named in their words"] == 1


def test_a_second_version_of_a_part_of_visual_genome_is_named(tmp_path):
    shutil.copytree(FIXTURES / "visual_genome", tmp_path / "vg")
    shutil.copy(tmp_path / "vg/objects.json", tmp_path / "vg/objects_v1_2.json")
    _, report = converted(tmp_path, "visual_genome", tmp_path / "vg", tmp_path / "vg")
    assert any("objects_v1_2.json is not read beside" in line for line in report.remarks)


@pytest.mark.parametrize(
    ("name", "source", "folder"),
    [("gar", "gar_dataset/relation.json", "gar_dataset"), ("pixelrefer", "pixelrefer/image.json", "coco")],
)
def test_a_conversation_without_a_turn(tmp_path, name, source, folder):
    def emptied(item):
        item["conversations"], item["masks"] = [], []
        if name == "gar":
            item["image"] = next(path.name for path in (FIXTURES / folder).rglob("*.jpg"))
        item.pop("mask_rle", None)
        item.pop("mask_rles", None) if name != "gar" else item.update(mask_rles=None)

    _, notes = read(name, changed(tmp_path, source, emptied), folder)
    assert reasons(notes) == {"no_labels": 1}


def test_the_one_category_of_grounding_data_is_no_name(tmp_path):
    source = {
        "images": [
            {"id": 1, "file_name": "1001.jpg", "width": 64, "height": 48, "caption": "A dog and a ball.",
             "dataset_name": "flickr", "data_source": "flickr"}
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 16, 24, 24], "area": 576, "iscrowd": 0,
             "tokens_positive": [[0, 5]]}
        ],
        "categories": [{"supercategory": "object", "id": 1, "name": "object"}],
    }  # fmt: skip
    (tmp_path / "final_flickr_mergedGT_train.json").write_text(json.dumps(source))
    path = tmp_path / "final_flickr_mergedGT_train.json"
    records, _ = converted(tmp_path, "auto", path, "flickr30k_entities", tasks=("description",))
    assert texts_of(records[0])[1] == "A dog"
    with pytest.raises(ValueError, match="--task identification asks nothing"):
        converted(tmp_path, "mdetr", path, "flickr30k_entities", tasks=("identification",))


def test_half_of_a_surrogate_pair_beside_the_texts_leaves_a_file_that_can_be_read(tmp_path):
    source = json.loads((FIXTURES / "coco/annotations/instances_val2017.json").read_text())
    for one in source["annotations"]:
        one["attributes"] = {"note": "x\ud83d"}
    (tmp_path / "coco.json").write_text(json.dumps(source))
    records, _ = converted(tmp_path, "coco", tmp_path / "coco.json", "coco")
    assert any("\\ud83d" in json.dumps(record["source"]) for record in records)
    assert validate(tmp_path / "out.jsonl", FIXTURES / "coco") == []


def test_lines_are_named_by_their_number_also_in_an_array(tmp_path):
    lines = (FIXTURES / "refcoco/qwen_vl/refcoco_val.jsonl").read_text().splitlines()
    (tmp_path / "refcoco_val.json").write_text(f"[{', '.join(lines)}]")
    records, _ = converted(tmp_path, "refcoco_jsonl", tmp_path / "refcoco_val.json", "refcoco/images")
    assert [record["id"] for record in records] == [f"refcoco_jsonl/{number + 1}" for number in range(len(lines))]


@pytest.mark.parametrize(("name", "part"), [("visual_genome", "objects.json"), ("pvit/stage2", "multi_objects.json")])
def test_an_empty_file_beside_others_is_damage(tmp_path, name, part):
    shutil.copytree(FIXTURES / name, tmp_path / "source")
    (tmp_path / "source" / part).write_text(" \n")
    with pytest.raises(SourceError, match=rf"{part}: the file is empty"):
        converted(tmp_path, name.split("/")[0], tmp_path / "source", tmp_path / "source")


def test_a_sentence_of_flickr30k_that_breaks_off(tmp_path):
    shutil.copytree(FIXTURES / "flickr30k_entities", tmp_path / "source")
    path = tmp_path / "source/Sentences/1001.txt"
    path.write_text("A dog .\nA [/EN#1/animals brown do")
    with pytest.raises(SourceError, match=r"1001\.txt line 2: a phrase is \[/EN#ID/TYPE words\], got"):
        converted(tmp_path, "flickr30k", tmp_path / "source", tmp_path / "source")


@pytest.mark.parametrize("said", ["", "\n \n", None])
def test_an_image_of_flickr30k_without_sentences_is_said(tmp_path, said):
    shutil.copytree(FIXTURES / "flickr30k_entities", tmp_path / "source")
    path = tmp_path / "source/Sentences/1001.txt"
    path.unlink() if said is None else path.write_text(said)
    _, report = converted(tmp_path, "flickr30k", tmp_path / "source", tmp_path / "source")
    assert f"1001.xml: no {'' if said is None else 'sentence in '}{path}" in report.shown["incomplete"]


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path):
    _, report = converted(tmp_path, "gqa", "gqa", "gqa")
    assert report.remarks[0] == "gqa: testdev_balanced_questions.json not read: there are no scene graphs of them"
    shutil.copytree(FIXTURES / "pvit/stage2", tmp_path / "stage2")
    (tmp_path / "stage2/mapping.yaml").write_text("mapping: {}")
    _, report = converted(tmp_path, "pvit", tmp_path / "stage2", "pvit")
    assert "pvit: mapping.yaml names no folder of images for multi_objects" in report.remarks
