"""Instruction data about masks: PixelRefer, Grasp Any Region and GAR-Bench."""

import json
import os
import shutil
from pathlib import Path

import pytest
from pycocotools import mask as coco_mask

from pvit_ext.data.check import validate
from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.run import Job, convert
from pvit_ext.regions.image import image_size
from pvit_ext.regions.run_lengths import parse_run_lengths
from tests.data.convert.truth import FIXTURES, box_of, changed, converted, put, read, reasons, texts_of

IMAGE, RELATION, ARROW = "pixelrefer/image.json", "gar_dataset/relation.json", "gar_dataset/Fine-Grained-Dataset"


def test_pixelrefer(tmp_path):
    records, _ = converted(tmp_path, "pixelrefer", IMAGE, "coco")
    assert texts_of(records[0]) == ["<image>\nWhat is <region> next to <region>?", "A person next to a cup."]
    person, cup = records[0]["regions"]
    assert coco_mask.toBbox(person["mask"]).tolist() == [6, 4, 20, 56]
    assert cup == {"polygon": [[30, 40, 40, 40, 40, 52, 30, 52]]}
    assert "regions" not in records[1]


def test_pixelrefer_captions():
    images, notes = read("pixelrefer", "pixelrefer/vg_val_5000.json", "visual_genome")
    (one,) = images["VG_100K/1.jpg"][0].objects
    assert (one.captions, list(one.box)) == (("a brown dog lying down",), box_of("s1", "dog"))
    assert not notes.drops


def test_videos_are_left_out_and_counted():
    images, notes = read("pixelrefer", "pixelrefer/video.json", "coco")
    assert (images, reasons(notes)) == ({}, {"no_image": 1})
    assert "clips/1.mp4 is a video" in notes.drops[0].detail


def test_gar_leaves_embedded_images_out_unless_told_where_to(tmp_path):
    records, report = converted(tmp_path, "gar", RELATION, "gar_dataset")
    assert report.dropped == {"no_image": 1}
    assert texts_of(records[0]) == [
        "<image>\nHow do region 1 <region> and region 2 <region> lie to each other?",
        "Region 2 is above region 1.",
    ]
    boxes = [coco_mask.toBbox(one["mask"]).tolist() for one in records[0]["regions"]]
    assert boxes == [[30, 40, 10, 12], [34, 10, 10, 12]]
    assert texts_of(records[1])[0] == "<image>\nDescribe the picture."


@pytest.mark.parametrize(("name", "source"), [("gar", RELATION), ("gar_arrow", ARROW)])
def test_gar_unpacks_images(tmp_path, name, source):
    if name == "gar_arrow":
        pytest.importorskip("pyarrow")
    folder = tmp_path / "images"
    shutil.copytree(FIXTURES / "gar_dataset/images", folder / "images")
    records, _ = converted(tmp_path, name, source, folder, settings={"unpack": "new"})
    assert texts_of(records[0])[0] == "<image>\n<region>\nSay what the marked part shows."
    assert records[0]["image"].startswith("new/")
    assert image_size(str(folder / records[0]["image"])) == (64, 48)
    assert coco_mask.toBbox(records[0]["regions"][0]["mask"]).tolist() == [8, 16, 24, 24]
    assert validate(tmp_path / "out.jsonl", folder, check_images=True) == []
    again = Path(folder, records[0]["image"]).read_bytes()
    converted(tmp_path, name, source, folder, settings={"unpack": "new"})
    assert [path.read_bytes() for path in (folder / "new").iterdir()] == [again]


@pytest.mark.parametrize("unpack", ["../out", "/tmp"])
def test_images_are_unpacked_into_the_image_folder_alone(tmp_path, unpack):
    with pytest.raises(SourceError, match="must stay in the image folder"):
        converted(tmp_path, "gar", RELATION, "gar_dataset", settings={"unpack": unpack})


def _bench(tmp_path, **fields):
    item = {**json.loads((FIXTURES / RELATION).read_text())[1], **fields}
    masks = item.pop("mask_rle")
    del item["conversations"]
    path = tmp_path / "bench.json"
    path.write_text(json.dumps([{**item, "mask_rles": masks}]))
    return path


def test_gar_bench_choices(tmp_path):
    question = {"question": "Which is higher?", "choices": ["A. <Prompt0>", "B. <Prompt1>"], "answer": "B"}
    records, _ = converted(tmp_path, "auto", _bench(tmp_path, **question), "gar_dataset")
    assert texts_of(records[0]) == [
        "<image>\nWhich is higher?\nA. <region>\nB. <region>\nAnswer with the letter of the right choice.",
        "B",
    ]


def test_gar_bench_relations(tmp_path):
    names = {"subject_name": "cup", "predicate_name": "below", "object_name": "other cup"}
    records, _ = converted(tmp_path, "gar", _bench(tmp_path, **names), "gar_dataset")
    assert texts_of(records[0])[1::2] == ["cup", "other cup"]
    assert records[0]["source"]["relations"] == [[0, "below", 1]]


@pytest.mark.parametrize(
    ("name", "source", "change", "expected"),
    [
        ("pixelrefer", IMAGE, lambda item: item["masks"].pop(), "2 <region> in the texts, 1 masks"),
        ("pixelrefer", IMAGE, put("masks", 0, "counts", "a=;o0f0"), "segmentation: run lengths sum to"),
        ("pixelrefer", IMAGE, put("masks", 1, [[1, 2, 3]]), "a polygon is a list of an even number"),
        ("pixelrefer", IMAGE, put("image", ["a.jpg", "b.jpg"]), "image is one, got 2"),
        ("gar", RELATION, put("mask_rle", "counts", "?"), "segmentation: "),
        ("gar", RELATION, put("image", "data:base64,AAAA"), "its embedded image is none"),
        ("gar", RELATION, put("conversations", 0, "value", "<Prompt3>?"), "there are 1 regions, counted from 0"),
        ("gar", RELATION, put("mask_rle", [7]), "a mask is an object, got 7"),
    ],
)
def test_damage_is_named(tmp_path, name, source, change, expected):
    folder = {"pixelrefer": FIXTURES / "coco"}.get(name, tmp_path)
    settings = {"unpack": "new"} if name == "gar" else {}
    with pytest.raises(SourceError, match=rf"source\.json line 1: .*{expected}"):
        converted(tmp_path, name, changed(tmp_path, source, change), folder, settings=settings)


def test_an_arrow_file_that_breaks_off(tmp_path):
    pytest.importorskip("pyarrow")
    content = (FIXTURES / ARROW / "data-00000-of-00001.arrow").read_bytes()
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "data-00000-of-00001.arrow").write_bytes(content[:1500])
    with pytest.raises(SourceError, match=r"data-00000-of-00001\.arrow is no Arrow stream, or damaged"):
        converted(tmp_path, "gar_arrow", tmp_path / "source", tmp_path)


@pytest.mark.skipif("PVIT_EXT_DATA" not in os.environ, reason="PVIT_EXT_DATA names the folder with gar_bench")
@pytest.mark.parametrize(("part", "records", "regions"), [("VQA", 424, 772), ("Caption-Simple", 97, 195)])
def test_gar_bench_as_published(tmp_path, part, records, regions):
    folder = Path(os.environ["PVIT_EXT_DATA"]) / "gar_bench"
    source, out = folder / f"GAR-Bench-{part}.json", tmp_path / "out.jsonl"
    report = convert(Job("auto", source, folder, out))
    assert (report.counts["records"], report.counts["regions"], report.dropped) == (records, regions, {})
    given = {one["counts"]: one for item in json.loads(source.read_text()) for one in item["mask_rles"]}
    for line in out.read_text().splitlines()[:20]:
        for region in json.loads(line)["regions"]:
            mask = parse_run_lengths(region["mask"]).decode()
            assert (mask == coco_mask.decode(given[region["mask"]["counts"]]).astype(bool)).all()
