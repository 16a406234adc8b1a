"""Placeholders and keys of other region data sets are named, with what to write; ordinary text is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pvit_ext import cli
from pvit_ext.data.check import check, validate
from pvit_ext.data.records import count_regions
from tests.data.records import asked, problem, record, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    return tmp_path


def wide(text: str) -> str:
    """The text as an East Asian keyboard types its brackets and capitals."""
    return "".join(chr(ord(one) + 0xFEE0) if one in "<>[]BOX" else one for one in text)


TAGS = [
    "<region1>", "<region 1>", "<region_2>", "<REGION>", "<Regions>", "<region_fea>", "<bbox>", "<bboxes>", "<mask>",
    "<mask_0>", "<mask><pos>", "<box>", "</box>", "<ref>", "<spi_descript>", "<spi_1>", "<roi>", "<point>", "<Prompt0>",
    "<|box_start|>", "<obj_vis>", "<object>", "<ref-object>", "<loc_17>", "< region >", "<region/>", "&lt;region&gt;",
    "<bounding_box>", "<bounding box 2>", "<boundingboxes>", "<segmentation>", "<rle>", "<SEG>", "<area>", "<crop_1>",
    "<image_region>", "<visual_prompt>", "<region:1>", "<reg>", "<rgn_2>", "[region]", "{region}", "[bbox_1]",
    "<NO_Prompt>", "[SEG]", "[mask_1]", "{mask}", "[VISUAL_PROMPT]", "[region1]", "{bbox_2}",
    *map(wide, ("<region>", "<region1>", "</region>", "[region]")), wide("<") + "region>", wide("<bbox>".upper()),
]  # fmt: skip


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("regions", [None, [[1, 2, 30, 15]]])
def test_a_placeholder_that_no_encoder_reads_is_named(folder: Path, tag: str, regions: Any) -> None:
    found = problem(folder, conversations=asked(f"<image>\nWhat is {tag}?"), regions=regions)
    assert "is text that no encoder reads; write <region>" in found
    assert tag.split("><")[0].rstrip(">") in found


@pytest.mark.parametrize("tag", ["<region1>", "<bbox>", "<bounding_box>", "<REGION>", "<spi_1>"])
def test_in_an_answer_too(folder: Path, tag: str) -> None:
    assert "conversations[1]" in problem(folder, conversations=asked("<image>\nIs <region> it?", f"No, {tag} is."))


TEXTS = [
    ("<image>\nWhat is <region>?", "See <ref>[1]</ref> and <mask>."),
    ("<image>\nWhat is <region>? A box, a mask, 3 < 4 > 2.", "The <b>region</b> <L204>."),
    (f"<image>\nThe man holds a [MASK]; [segment] [masked] [prompt]? {wide('<land> [1] a<b <image>')} <region>",
     f"In {wide('[region]')}."),
    ("<image>\n" + r"<region>: $L_{seg}$, \mathcal{L}_{mask}, M_\text{mask}, x^{roi}, a{bbox}, \frac{1}{mask}?",
     "1."),
    ("<image>\n<region> is img[mask], x[mask] = 0, a[0][mask], {{mask}}, f'{x}{{bbox}}', f'{mask}', x[[mask]]?",
     "No."),
    ("<image>\nIs <region> <regionally> <p>bound</p> <boxer> <referee> <maskot>?", "Yes."),
]  # fmt: skip


@pytest.mark.parametrize("turns", TEXTS)
def test_ordinary_text_stays(folder: Path, turns: tuple[str, str]) -> None:
    assert validate(write(folder, [record(conversations=asked(*turns))]), folder) == []


@pytest.mark.parametrize("text", ["看[mask]是", "Is [SEG] it?", "($[mask])", "a, [bbox]."])
def test_a_placeholder_in_brackets_stands_free(folder: Path, text: str) -> None:
    assert "is text that no encoder reads" in problem(folder, conversations=asked(f"<image>\n{text} <region>"))


@pytest.mark.parametrize(
    "text",
    ["aws --region <region-name>?", "aws --region <REGION>", "gcloud --region=<region_1>", "mv --boxes <boxes>",
     "list --region <region> --roi <ROI_1>", "deploy to <REGION> or <BBOX>", "pack <boxes> of <regions>"],
)  # fmt: skip
def test_a_blank_of_a_text_without_an_image_stays(folder: Path, text: str) -> None:
    text = text.replace("<region>", "<regions>")  # that one is ours
    row = record(image=None, regions=None, conversations=asked(text, "<REGION> is yours."))
    assert validate(write(folder, [row]), folder) == []


@pytest.mark.parametrize("tag", ["<region1>", "<bbox>", "<bboxes>", "<roi_2>", "<spi>", "<bounding box 1>"])
def test_a_placeholder_without_an_image_is_named(folder: Path, tag: str) -> None:
    found = problem(folder, image=None, regions=None, conversations=asked(f"What is {tag}?"))
    assert f"conversations[0]: '{tag}' is text that no encoder reads, and the record has no image" in found
    assert 'give "image" and "regions" and write <region>, or' in found


def test_code_without_an_image_stays(folder: Path) -> None:
    turns = asked("Parse <bbox>1, 2</bbox> for <region-name> and <b>.", "In <bbox> or <region1>.")
    assert validate(write(folder, [record(image=None, regions=None, conversations=turns)]), folder) == []


KEYS = {
    "bboxes": [[1, 2, 3, 4]], "boxes": [[1, 2, 3, 4]], "bbox": [1, 2, 3, 4], "box": [1, 2, 3, 4], "region": [[1, 2]],
    "Regions": [[1, 2, 3, 4]], "annotation": {"bbox": [1, 2, 3, 4]}, "annotations": [{"bbox": [1, 2, 3, 4]}],
    "masks": [[1]], "segmentation": [[1, 2]], "polygons": [[1]], "points": [[1]], "mask_rles": ["x"], "objects": [1],
    # by a word in the key, and by what the value is
    "gt_bboxes": [[1, 2, 3, 4]], "boundingBoxes": [[1, 2, 3, 4]], "bbox_xyxy": [1, 2, 3, 4], "boxes_seq": [[0]],
    "sam_masks": [{"counts": "x"}], "region_list": [[1, 2, 3, 4]], "anns": [{"id": 1}],
    "coordinates": [1, 2, 3, 4], "xywh": [0.1, 0.2, 0.3, 0.4],
    "phrase_box": {"a": [1, 2, 3, 4]}, "coords": [[1, 2, 3, 4]], "where": [[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1]],
}  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("text", ["<image>\nWhat is it?", "<image>\nWhat is <region>?"])
def test_a_key_of_another_format_is_named(folder: Path, key: str, text: str) -> None:
    found = problem(folder, regions=None, conversations=asked(text), **{key: KEYS[key]})
    assert f'the key {key!r} is not read; write "regions": [' in found


INSIDE = [
    ("bbox", [1, 2, 3, 4]), ("gt_box", [[1, 2]]), ("coords", [1, 2, 3, 4]), ("boxes", {"a": [1, 2, 3, 4]}),
    ("bbox", [9, 5, 2, 2]), ("xywh", [9, 5, 2, 2]), ("box", {"x0": 1, "y0": 2, "x1": 3, "y1": 4}),
    ("x", [[1, 2, 3, 4]]), ("mask", {"counts": [1], "size": [1, 1]}), ("polygon", [[1, 2], [3, 4], [5, 6]]),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), INSIDE)
@pytest.mark.parametrize("wrap", [lambda one: one, lambda one: [one, one]])
def test_regions_inside_another_key_are_named(folder: Path, key: str, value: Any, wrap: Any) -> None:
    found = problem(folder, regions=None, conversations=asked("<image>\nWhat?"), meta=wrap({"a": 1, key: value}))
    assert f"the key {key!r} in 'meta' is not read; write \"regions\": [" in found


@pytest.mark.parametrize("value", [None, [], {}])
def test_an_empty_key_says_nothing(folder: Path, value: Any) -> None:
    row = record(regions=None, conversations=asked("<image>\nWhat?")) | {"bboxes": value}
    assert validate(write(folder, [row]), folder) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("object_names", ["dog", "cat"]), ("box_score", 0.9), ("has_box", True), ("region", ""), ("mask_ratio", 0.4),
        ("camera_pose", [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), ("object_ids", [1, 2, 3, 4]),
        ("coordinates", [4.9, 52.4]), ("gps_coords", {"lat": 1, "lon": 2}), ("meta", {"size": [40, 20], "box": []}),
        ("meta", {"annotations": {"by": "me"}, "object_ids": [1, 2, 3, 4], "region": {"id": 5}}), ("meta", [1, [2]]),
        ("source", {"objects": [{"box": [1, 2, 3, 4]}], "bbox": [1, 2, 3, 4]}), ("meta", [{"quat": [0, 0, 0, 1]}]),
        ("scores", {"box": [0.1, 0.2, 0.3, 0.4]}), ("eval", {"points": {"a": 1}}), ("meta", {"masks": {"count": 3}}),
        ("location", {"coordinates": [52.1, 13.2, 1, 1]}), ("thumbnail_sizes", [[10, 20, 30, 40]]),
        ("gps_coordinates", [1.0, 2, 3, 4]), ("meta", {"gpsCoordinates": [1.0, 2, 3, 4], "box_score": [1, 2, 3, 4]}),
        ("coordinates", [52.1, 13.2, 1, 1]), ("box_scores", [[0.1, 0.2, 0.3, 0.4]]), ("meta", {"bbox": [0, 0, 0, 0]}),
        ("region", "Europe"), ("points", 10), ("mask", False), ("annotation", "by me"), ("objects", 3),
        ("size", [40, 20]), ("tags", ["a"]), ("quat", [0, 0, 0, 1]), ("token_counts", [[1, 2], [3, 4]]),
    ],
)  # fmt: skip
def test_a_key_that_holds_no_regions_says_nothing(folder: Path, key: str, value: Any) -> None:
    row = record(regions=None, conversations=asked("<image>\nWhat?")) | {key: value}
    assert validate(write(folder, [row]), folder) == []


def test_a_key_beside_regions_is_the_users_own(folder: Path) -> None:
    inline = asked("<image>\nWhat is <Region>[0.1, 0.1, 0.9, 0.9]</Region>?")
    rows = [record(bbox=[1, 2, 3, 4]), record(bbox=[1, 2, 3, 4], regions=None, conversations=inline)]
    assert validate(write(folder, rows), folder) == []


def test_a_key_under_another_name_is_shown(folder: Path) -> None:
    assert "its image stands under 'images'; the key is \"image\"" in problem(folder, image=None, images=["a.png"])
    assert "it has 'messages', the key is \"conversations\"" in problem(folder, conversations=None, messages=[1])


IMAGES = {
    "images": ["a.png"], "image_path": "a.png", "Image": "a.png", "img": "data:image/png;base64,aGk=",
    "file_name": "a.JPG", "photo": "x/a.jpeg",
    "imageUrl": "http://x/a.webp", "image_list": ["a.png", "b.png"],
    "imgs": [{"bytes": "x"}], "img_path": "s3://x/a", "image_url": "https://x/a?id=3",
}  # fmt: skip


@pytest.mark.parametrize("key", IMAGES)
@pytest.mark.parametrize("text", ["What is it?", "What is <region1>?", "What is <bbox>?"])
def test_a_record_whose_image_would_not_be_read(folder: Path, key: str, text: str) -> None:
    found = problem(folder, image=None, regions=None, conversations=asked(text), **{key: IMAGES[key]})
    assert f'its image stands under {key!r}; the key is "image"' in found


def test_regions_are_named_before_the_image(folder: Path) -> None:
    own = {"file_name": "a.png", "annotation": [{"bbox": [1, 2, 3, 4]}]}
    found = problem(folder, image=None, regions=None, conversations=asked("What?"), **own)
    assert "the key 'annotation' is not read; write" in found
    assert found.endswith("its image stands under 'file_name'; the key is \"image\"")


@pytest.mark.parametrize(
    ("key", "value"),
    [("images", []), ("image_path", ""), ("file_name", "main.py"), ("image_size", [3, 4]), ("has_image", False),
     ("images", 0), ("images", "none"), ("img", False), ("img_path", 0), ("image_file", "N/A"), ("Image", "no"),
     ("image_license", "https://x/by"), ("file_name", "https://x/a"), ("imagery", "a.png"),
     ("photo_credit", "me"), ("profile", "a.png")],
)  # fmt: skip
def test_a_text_with_a_key_that_names_no_image(folder: Path, key: str, value: Any) -> None:
    row = record(image=None, regions=None, conversations=asked("What?")) | {key: value}
    assert validate(write(folder, [row]), folder) == []


def test_null_keys_are_absent(folder: Path) -> None:
    turns = asked("What?")
    path = write(folder, [{"id": None, "image": None, "regions": None, "model": None, "conversations": turns}])
    assert validate(path, folder) == []


# What a file holds


def some(folder: Path) -> Path:
    square = {"polygon": [[1, 1], [9, 1], [9, 9]]}
    two = asked("<image>\nWhat is <region>, and <Region>[0.1, 0.1, 0.9, 0.9]</Region>?")
    mask = {"mask": {"size": [20, 40], "counts": [10, 790]}}
    return write(
        folder,
        [record(1), record(2, regions=[square], conversations=two), record(3, regions=[mask]), record(4, image=5),
         record(5, image=None, regions=None, conversations=asked("What?"))],
    )  # fmt: skip


def test_what_a_file_holds_is_counted(folder: Path) -> None:
    summary = count_regions(some(folder))
    assert (summary.records, summary.with_regions, summary.images, summary.regions) == (4, 3, 1, 4)
    assert summary.kinds == {"box": 2, "polygon": 1, "mask": 1}
    assert count_regions(write(folder, [record(regions=None, conversations=asked("<image>\nWhat?"))])).regions == 0


def test_an_image_of_several_records_counts_once(folder: Path) -> None:
    Image.new("RGB", (40, 20)).save(folder / "b.png")
    two = asked("<image> <image>\nWhat is <region>?")
    rows = [record(1), record(2), record(3, image=["b.png", "a.png"], conversations=two), record(4, image="a.png")]
    path = write(folder, rows)
    assert count_regions(path).images == count_regions(path).images == 2  # the second time from the index
    assert [check(path, folder, opened)[1].images for opened in (False, True)] == [2, 2]


def test_the_command_prints_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["data"], ["data", "check"]):
        assert cli.main([*words, str(some(folder)), "--image-folder", str(folder)]) == 1
        assert (
            capsys.readouterr()
            .out.splitlines()[-1]
            .endswith(": 4 records, 3 of them with regions; 1 image; 4 regions (2 box, 1 polygon, 1 mask)")
        )
    path = write(folder, [record(regions=None, conversations=asked("<image>\nWhat?"))])
    assert cli.main(["data", str(path), "--image-folder", str(folder)]) == 0
    assert "no record has a region" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        cli.main(["data", "chekc", str(path), "--image-folder", str(folder)])
    assert "no command 'chekc' of data" in capsys.readouterr().err
