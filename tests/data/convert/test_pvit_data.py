"""PVIT's released data: a stage's folder with mapping.yaml, and one of its files."""

import json
import shutil

import pytest

from pvit_ext.data.check import validate
from pvit_ext.data.convert.base import SourceError
from tests.data.convert.truth import FIXTURES, box_of, converted, texts_of


def test_a_stage(tmp_path):
    records, report = converted(tmp_path, "pvit", "pvit/stage2", "pvit")
    found = {record["id"]: record for record in records}
    assert report.counts["records"] == 4
    assert texts_of(found["pvit/multi_objects/2"])[0] == "Are <region> and <region> alike?\n<image>"
    assert found["pvit/multi_objects/2"]["image"] == "data/coco2017_train_images/000000000102.jpg"
    cups = [box_of("s2", "cup_low"), box_of("s2", "cup_high")]
    for region, box in zip(found["pvit/multi_objects/2"]["regions"], cups, strict=True):
        assert region == pytest.approx(box, abs=0.07)
    assert found["pvit/vg_v1_0625_66k_filtered/1"]["image"] == "data/visual_genome_images/3.jpg"
    assert validate(tmp_path / "out.jsonl", FIXTURES / "pvit", check_images=True) == []


def test_some_of_a_stage_s_files(tmp_path):
    records, _ = converted(tmp_path, "pvit", "pvit/stage2", "pvit/data", settings={"keys": "multi_objects"})
    assert [record["id"] for record in records] == ["pvit/multi_objects/1", "pvit/multi_objects/2"]
    with pytest.raises(SourceError, match="holds no ocr; it holds gqa_train"):
        converted(tmp_path, "pvit", "pvit/stage2", "pvit", settings={"keys": "ocr"})


def test_one_file(tmp_path):
    source = tmp_path / "multi_objects.json"
    shutil.copy(FIXTURES / "pvit/stage2/multi_objects.json", source)
    records, _ = converted(tmp_path, "auto", source, "pvit/data/coco2017_train_images")
    assert [record["image"] for record in records] == ["000000000102.jpg"] * 2


def test_files_whose_boxes_are_the_output_s_are_told_about(tmp_path):
    shutil.copytree(FIXTURES / "pvit/stage2", tmp_path / "stage")
    with open(tmp_path / "stage/mapping.yaml", "a") as stream:
        stream.write("bbox:\n  multi_objects: output\n")
    records, report = converted(tmp_path, "pvit", tmp_path / "stage", "pvit")
    assert len(records) == 2
    assert "multi_objects.json is not read: mapping.yaml says that its boxes are output" in str(report)


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        ("<Region><L1><L2><L3></Region>", "a region is <Lx0><Ly0><Lx1><Ly1>"),
        ("<Region><L1><L2><L3><L1000></Region>", "a region is <Lx0><Ly0><Lx1><Ly1>"),
        ("<Region>[0.1, 0.2]</Region>", "a region is <Lx0><Ly0><Lx1><Ly1>"),
        ("<Region><L1><L2><L3><L4>", "<Region> without its partner"),
    ],
)
def test_damaged_markup_is_named(tmp_path, region, expected):
    talk = [{"from": "human", "value": f"What is {region}?"}, {"from": "gpt", "value": "A cup."}]
    (tmp_path / "key.json").write_text(json.dumps([{"image": "000000000102.jpg", "conversations": talk}]))
    with pytest.raises(SourceError, match=rf"key\.json item 1: {expected}"):
        converted(tmp_path, "pvit", tmp_path / "key.json", "pvit/data/coco2017_train_images")


@pytest.mark.parametrize(
    ("text", "expected"), [("- a", "has the maps mapping, image_paths, bbox"), ("a: [", "is no YAML")]
)
def test_a_damaged_mapping_is_named(tmp_path, text, expected):
    shutil.copytree(FIXTURES / "pvit/stage1", tmp_path / "stage")
    (tmp_path / "stage/mapping.yaml").write_text(text)
    with pytest.raises(SourceError, match=rf"mapping\.yaml {expected}"):
        converted(tmp_path, "pvit", tmp_path / "stage", "pvit")


def test_inverted_regions_and_fractions(tmp_path):
    turns = [
        ["Is <Region><L500><L2><L3><L400></Region> red?", "Yes."],
        ["Is <Region>[0.625, 0.625, 0.8333, 0.8125]</Region> red?", "No."],
    ]
    items = [
        {"image": "000000000102.jpg", "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
        for q, a in turns
    ]
    (tmp_path / "key.json").write_text(json.dumps(items))
    records, report = converted(tmp_path, "pvit", tmp_path / "key.json", "pvit/data/coco2017_train_images")
    assert report.dropped == {"degenerate": 1}
    assert records[0]["regions"][0] == pytest.approx(box_of("s2", "cup_low"), abs=0.01)
