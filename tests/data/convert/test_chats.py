"""Instruction data whose texts name regions by tags: ms-swift, Qwen-VL, Ferret, Osprey."""

import pytest
from pycocotools import mask as coco_mask

from pvit_ext.data.check import validate
from pvit_ext.data.convert.base import SourceError
from pvit_ext.regions.run_lengths import parse_run_lengths
from tests.data.convert.truth import FIXTURES, TRUTH, box_of, changed, converted, put, read, reasons, texts_of

SWIFT, QWEN, FERRET = "ms_swift/grounding.jsonl", "qwen/qwen_vl.json", "ferret/git_instruction.json"


def test_ms_swift(tmp_path):
    records, report = converted(tmp_path, "ms_swift", SWIFT, "ms_swift")
    found = {record["id"]: record for record in records}
    assert found["ms_swift/1"]["regions"] == [box_of("s2", "cup_low"), box_of("s2", "cup_high")]
    assert texts_of(found["ms_swift/1"])[1::2] == ["cup", "cup"]
    assert texts_of(found["ms_swift/2"]) == ["<image>What is at <region>?", "A dog."]
    assert found["ms_swift/2"]["regions"][0] == pytest.approx(box_of("s1", "dog"), abs=0.05)
    assert texts_of(found["ms_swift/4"]) == ["<image>Say hello.", "Hello."]
    assert report.dropped == {"boxes_asked": 2, "no_name": 1}
    assert report.counts["boxes in answers, left out of their text"] == 3


def test_ms_swift_on_the_second_of_two_images(tmp_path):
    def change(item):
        item["messages"] = [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "<image><image>What is <bbox> near <bbox>?"},
            {"role": "assistant", "content": "A bird."},
        ]
        item["images"] = ["images/s1.jpg", "images/s3.jpg"]
        item["objects"] = {"ref": ["x"], "bbox": [[71, 6], [60, 20, 90, 38]], "image_id": [1, 1]}

    records, report = converted(tmp_path, "ms_swift", changed(tmp_path, SWIFT, change), "ms_swift")
    assert records[0]["image"] == ["images/s1.jpg", "images/s3.jpg"]
    assert records[0]["regions"] == [{"point": [71, 6], "image": 1}, {"box": [60, 20, 80, 38], "image": 1}]
    assert validate(tmp_path / "out.jsonl", FIXTURES / "ms_swift", check_images=True) == []
    assert report.counts["system messages left out"] == 1
    assert report.counts["refs without a <ref-object> in the texts"] == 1


def test_fractions_without_images_stay_fractions(tmp_path):
    records, _ = converted(tmp_path, "ms_swift", SWIFT, "ms_swift", open_images=False)
    (record,) = [one for one in records if one["id"] == "ms_swift/2"]
    assert record["regions"] == [{"box": [0.125, 0.333333, 0.5, 0.833333], "normalized": True}]


def test_qwen_vl(tmp_path):
    records, report = converted(tmp_path, "qwen_vl", QWEN, "qwen")
    assert [texts_of(record)[1] for record in records] == ["the dog", "Two cups"]
    assert records[0]["regions"][0] == pytest.approx(box_of("s1", "dog"), abs=0.05)
    assert texts_of(records[1]) == ["<image>\nWhat is in <region>?", "Two cups"]
    assert records[1]["regions"][0] == pytest.approx(box_of("s2", "cup_low"), abs=0.05)
    (image,) = read("qwen_vl", QWEN, "qwen")[0]["images/s2.jpg"]
    assert image.grounded[0].phrases == ((0, 8, (0, 1)),)
    assert report.dropped == {"boxes_asked": 1, "no_image": 1}  # "Frame the dog." is answered by a box


def test_qwen2_vl_tags(tmp_path):
    def change(item):
        item["image"] = "images/s1.jpg"
        box = "<|box_start|>(125,333),(500,833)<|box_end|>"
        item["conversations"] = [
            {"from": "human", "value": f"<image>\nWhat lies beside {box}?"},
            {"from": "gpt", "value": f"<|object_ref_start|>A ball<|object_ref_end|>{box} does."},
        ]

    records, report = converted(tmp_path, "auto", changed(tmp_path, QWEN, change), "qwen")
    assert report.format == "qwen_vl"
    assert texts_of(records[0]) == ["<image>\nWhat lies beside <region>?", "A ball does."]


def test_ferret():
    images, notes = read("ferret", FERRET, "coco")
    (image,) = images["val2017/000000000102.jpg"]
    (talk,) = image.conversations
    assert talk.turns == (
        "<image>\nWhat is <region> next to?",
        "It stands next to the cup and behind the table.",
        "Is it day?",
        "Yes.",
    )
    mask = parse_run_lengths(talk.regions[0]["mask"]).decode()
    assert (mask == coco_mask.decode(talk.regions[0]["mask"]).astype(bool)).all()
    assert [list(one.box) for one in image.objects] == [box_of("s2", "cup_low"), box_of("s2", "table")]
    assert reasons(notes) == {"no_image": 1}


def test_ferret_clips_its_boxes():
    images, _ = read("ferret", FERRET, "visual_genome")
    assert images["VG_100K/3.jpg"][0].conversations[0].regions == ([60, 20, 80, 38],)


def test_ferret_s_masks_that_are_not_their_boxes_are_counted(tmp_path):
    size = [64, 48]  # of the first item's image, which is 48 wide

    def change(item):
        item["box_x1y1x2y2"], item["masks"] = [[] for _ in item["masks"]], [[] for _ in item["masks"]]
        item["conversations"][0]["value"] = "Are <bbox_location0> and <bbox_location1> alike?"
        item["conversations"][1]["value"] = "No."
        item["box_x1y1x2y2"][0] = [[5, 5, 20, 20], [5, 5, 20, 20]]
        item["masks"][0] = [{"size": size, "counts": [n, 20, 3052 - n]} for n in (3000, 2900, 9)]
        item["masks"][0][0] = {"size": size, "counts": [3072]}

    images, notes = read("ferret", changed(tmp_path, FERRET, change), "coco")
    ((image,),) = images.values()
    assert image.conversations[0].regions == ([5, 5, 20, 20], [5, 5, 20, 20])
    assert {name: count for name, count in notes.counts.items() if "masks" in name} == {
        "masks or outlines of no use, kept as boxes": 1,
        "masks or outlines that do not fit their box, kept as boxes": 1,
        "masks or outlines without a box, left out": 1,
    }


def test_osprey_conversations_number_the_regions_that_answers_name():
    images, notes = read("osprey", "osprey/osprey_conversation.json", "coco")
    (image,) = images["val2017/000000000102.jpg"]
    (talk,) = image.conversations
    assert talk.turns[:2] == (
        "Region 2 is <region>. What is region 1 <region> doing?",
        "The person at region 1 stands behind region 2.",
    )
    table, person = talk.regions
    assert table["polygon"] == [[0, 48, 48, 48, 48, 64, 0, 64]]
    (true,) = [one["mask"] for one in TRUTH["scenes"]["s2"]["objects"] if one["key"] == "person"]
    assert (parse_run_lengths(person["mask"]).decode() == parse_run_lengths(true).decode()).all()
    assert reasons(notes) == {"no_labels": 1}


def test_osprey_descriptions_are_captions():
    images, notes = read("osprey", "osprey/osprey_detail_description.json", "coco")
    objects = images["val2017/000000000101.jpg"][0].objects
    assert [one.captions for one in objects] == [("A brown dog lies on the grass.",), ("An orange ball: round.",)]
    assert [list(one.box) for one in objects] == [box_of("s1", "dog"), box_of("s1", "ball")]
    assert not notes.drops


@pytest.mark.parametrize(
    ("name", "short", "asked"),
    [
        ("short_form", "auto", "What animal is <region>?\nAnswer with a word or a phrase."),
        ("short_form", "no", "What animal is <region>?"),
        ("lvis_positive_negative", "auto", "Is <region> a dog? Say yes or no."),
        ("part_level", "auto", "What part of an object is <region>?\nAnswer with a word or a phrase."),
    ],
)
def test_osprey_asks_for_short_answers(name, short, asked):
    images, _ = read("osprey", f"osprey/osprey_{name}.json", "coco", short=short)
    assert images["val2017/000000000101.jpg"][0].conversations[0].turns[0] == asked


CONVERSATION = "osprey/osprey_conversation.json"
DAMAGED = [
    ("ms_swift", SWIFT, put("objects", "bbox", [[1, 2, 30, 40]]), r"2 <bbox> in the texts, 1 in objects\.bbox"),
    ("ms_swift", SWIFT, put("objects", "ref", []), "more <ref-object> than the 0 of ref"),
    ("ms_swift", SWIFT, put("objects", "bbox_type", "norm1000"), "bbox_type is one of real, norm1, got 'norm1000'"),
    ("ms_swift", SWIFT, put("objects", "image_id", [0, 3]), "image_id 3 is none of 1 images"),
    ("ms_swift", SWIFT, put("objects", "bbox", 0, ["a", 2, 3, 4]), "a bbox is a list of 4 finite numbers"),
    ("ms_swift", SWIFT, put("messages", 1, "role", "tool"), r"from 'tool'; expected gpt or assistant"),
    ("qwen_vl", QWEN, put("conversations", 1, "value", "<box>(1,2),(3)</box>"), r"a box is \(x0,y0\),\(x1,y1\)"),
    ("qwen_vl", QWEN, put("conversations", 1, "value", "<box>(1,2),(3,1001)</box>"), r"whole numbers of 0\.\.999"),
    ("qwen_vl", QWEN, put("conversations", 1, "value", "a <box>(1,2),(3,"), "<box> without its partner"),
    ("ferret", FERRET, put("box_x1y1x2y2", [[]]), r"a list for each of 4 turns, got 1 and 4"),
    ("ferret", FERRET, put("box_x1y1x2y2", 0, []), r"names <bbox_location0>, box_x1y1x2y2\[0\] has 0"),
    ("ferret", FERRET, put("masks", 0, 0, "counts", "a="), r"segmentation: "),
    ("osprey", CONVERSATION, put("annotation", []), "<region1> in .*there are 0 regions, counted from 1"),
    ("osprey", CONVERSATION, put("annotation", 0, "segmentation", "size", [48, 64]), "is 64x48, its image"),
    ("osprey", CONVERSATION, put("annotation", 0, "segmentation", 7), "'segmentation' is a list or an object, got 7"),
    ("osprey", CONVERSATION, put("conversations", 3, "value", None), r"conversations\[3\] is text, got None"),
    ("osprey", CONVERSATION, lambda item: item["conversations"].pop(), "ends with a question, there is no answer"),
    ("osprey", "osprey/osprey_detail_description.json", put("description", ["a dog"]), "description.0. is '<regionN>"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "source", "change", "expected"), DAMAGED)
def test_damage_is_named(tmp_path, name, source, change, expected):
    folder = {"ferret": "coco", "osprey": "coco", "qwen_vl": "qwen"}.get(name, name)
    with pytest.raises(SourceError, match=rf"source\.json line 1: .*{expected}"):
        converted(tmp_path, name, changed(tmp_path, source, change), folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put("annotation", 0, "segmentation", [[1, 2, 3, 4]]), "degenerate"),
        (put("annotation", 0, "segmentation", [[200, 2, 230, 4, 220, 9]]), "outside"),
        (put("file_name", "other.jpg"), "no_image"),
        (put("width", 49), "size_differs"),
    ],
)
def test_a_conversation_about_a_region_that_is_of_no_use_is_counted(tmp_path, change, reason):
    _, notes = read("osprey", changed(tmp_path, CONVERSATION, change), "coco")
    assert reasons(notes) == {reason: 2}


def test_a_file_that_breaks_off(tmp_path):
    path = tmp_path / "source.json"
    path.write_text((FIXTURES / CONVERSATION).read_text()[:500])
    with pytest.raises(SourceError, match="cut off"):
        converted(tmp_path, "osprey", path, "coco")


SOURCES = [
    ("ms_swift", SWIFT, "ms_swift"),
    ("qwen_vl", QWEN, "qwen"),
    ("ferret", FERRET, "coco"),
    *(
        ("osprey", f"osprey/osprey_{name}.json", "coco")
        for name in ("conversation", "detail_description", "short_form")
    ),
]


@pytest.mark.parametrize(("name", "source", "folder"), SOURCES)
def test_records_train(tmp_path, name, source, folder):
    records, report = converted(tmp_path, name, source, folder)
    assert validate(tmp_path / "out.jsonl", FIXTURES / folder, check_images=True) == []
    assert report.counts["records"] == len(records)
