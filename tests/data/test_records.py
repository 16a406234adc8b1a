"""Data files: round trip, every rule with its line, hostile input."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from pvit_ext.data.check import validate
from pvit_ext.data.records import SHOWN_PROBLEMS, RecordError, load_records
from tests.data.records import asked, corners, pixels, problem, record, run_lengths, write


def test_round_trip_of_every_form(folder: Path) -> None:
    written = [
        [1, 2, 30, 15],
        {"box": [0.1, 0.2, 0.3, 0.4], "normalized": True},
        {"point": [3, 4], "image": 0},
        {"polygon": [[1, 1], [9, 1], [9, 9]]},
        {"scribble": [[1, 1], [9, 1]]},
    ]
    read = load_records(
        write(folder, [record(conversations=asked("<image>\n" + "<region>" * 5), regions=written)]), folder
    )[0]
    assert corners(read.regions) == [
        ("box", False, ((1, 2), (30, 15))),
        ("box", True, ((0.1, 0.2), (0.3, 0.4))),
        ("point", False, ((3, 4),)),
        ("polygon", False, ((1, 1), (9, 1), (9, 9))),
        ("scribble", False, ((1, 1), (9, 1))),
    ]
    assert read.data == {key: value for key, value in record(conversations=read.data["conversations"]).items()
                         if key != "regions"}  # fmt: skip
    assert read.location == "train.json line 2 (id '0')"


def test_array_and_lines_give_the_same_records(folder: Path) -> None:
    rows = [record(number) for number in range(5)]
    array = load_records(write(folder, rows), folder)
    lines = load_records(write(folder, "\ufeff\n" + "\r\n\n".join(map(json.dumps, rows)), "train.jsonl"), folder)
    assert [r.data for r in array] == [r.data for r in lines]
    assert [corners(r.regions) for r in array] == [corners(r.regions) for r in lines]
    assert [r.location.split()[2] for r in lines] == ["2", "4", "6", "8", "10"]


@example(["\u2028", "\x85\x0c", "x"], None, False)
@example(["\u2028", "\x85\x0c", "x"], 3, True)
@given(st.lists(st.text(max_size=20), min_size=1, max_size=6), st.sampled_from([None, 3]), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_lines_are_those_of_the_file(tmp_path_factory: Any, ids: list[str], indent: int | None, array: bool) -> None:
    """Whatever stands in the text: line breaks inside JSON strings are escaped, U+2028 is no line break."""
    rows = [record(0, id=text) for text in ids]
    dumped = [json.dumps(row, indent=indent if array else None, ensure_ascii=False) for row in rows]
    text = "[\n\n" + ",\n".join(dumped) + "]" if array else "\n".join(dumped)
    text = text.encode("utf-8", "replace").decode()
    path = write(tmp_path_factory.mktemp("lines"), text)
    read = load_records(path)
    starts = [number for number, line in enumerate(text.split("\n"), 1) if line.startswith("{")]
    assert [int(r.location.split()[2]) for r in read] == starts
    assert len(read) == len(rows)


def test_inline_markup_becomes_placeholders_in_order(folder: Path) -> None:
    turns = asked(
        "<image>\n<Region><L100><L200><L300><L400></Region> near <region>?", "Yes, <Region>[0,0,1,1]</Region>"
    )
    read = load_records(write(folder, [record(conversations=turns)]), folder)[0]
    assert [turn["value"] for turn in read.data["conversations"]] == [
        "<image>\n<region> near <region>?",
        "Yes, <region>",
    ]
    assert [region.points for region in read.regions] == [
        ((0.1, 0.2), (0.3, 0.4)), ((1, 2), (30, 15)), ((0, 0), (1, 1)),
    ]  # fmt: skip


def test_a_null_key_of_a_region_is_an_absent_one(folder: Path) -> None:
    """As a table with a column for each kind is written."""
    nulls = dict.fromkeys(("box", "point", "polygon", "scribble", "mask", "normalized", "image"))
    rows = [record(regions=[{**nulls, **own}]) for own in ({"box": [1, 2, 30, 15]}, {"point": [3, 4], "image": 0})]
    found = load_records(write(folder, rows), folder)
    assert [found[number].regions[0].kind for number in (0, 1)] == ["box", "point"]
    assert "object with one of box" in problem(folder, regions=[nulls])


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_file_name_is_said_to_be_one(folder: Path, name: str) -> None:
    assert "image is empty: leave the key out, or write null, where there is none" in problem(folder, image=name)


def test_a_plain_llava_record_is_left_as_it_is(folder: Path) -> None:
    row = record(regions=None, conversations=asked("<image>\nWhat?"), extra={"a": [1, None]})
    text_only = {"conversations": asked("What?")}
    read = load_records(write(folder, [row, text_only]), folder)
    assert [r.data for r in read] == [row, text_only]
    assert [r.regions for r in read] == [[], []]


# What is refused

LONG = [{"from": "human", "value": "<image>\n<region>"}] * 2
CASES: list[tuple[dict[str, Any], str]] = [
    ({"conversations": None}, "conversations is a list"),
    ({"conversations": []}, "conversations is a list"),
    ({"conversations": "hello"}, "conversations is a list"),
    ({"conversations": [1, 2]}, "conversations[0]"),
    ({"conversations": [{"from": "human"}]}, "conversations[0]"),
    ({"conversations": [{"from": "human", "value": 5}]}, "conversations[0]"),
    ({"conversations": [{"from": "gpt", "value": "<image><region>"}]}, "take turns"),
    ({"conversations": LONG}, "conversations[1] is from 'human'"),
    ({"conversations": LONG[:1]}, "no answer"),
    ({"conversations": asked("<image>\n<region>", " ")}, "conversations[1] has an empty value"),
    ({"conversations": asked("<image>\n<region>", "\ud800")}, "surrogate"),
    ({"image": "/etc/passwd"}, "must stay inside"),
    ({"image": "../a.png"}, "must stay inside"),
    ({"image": "x/../../a.png"}, "must stay inside"),
    ({"image": "..\\a.png"}, "must stay inside"),
    ({"image": "C:\\a.png"}, "must stay inside"),
    ({"image": ""}, "image is empty"),
    ({"image": "a\0.png"}, "must stay inside"),
    ({"image": ["a.png", 5]}, "image[1] is a path"),
    ({"image": []}, "image is an empty list"),
    ({"image": ["a.png", "a.png"]}, "1 <image> placeholders but 2 image"),
    ({"image": 5}, "image is a path"),
    ({"image": "b.png"}, "not in the image folder"),
    ({"image": None}, "1 regions but no image"),
    ({"image": None, "regions": None, "conversations": asked("<Region><L1><L2><L3><L4></Region>?")}, "but no image"),
    ({"image": None, "regions": None, "conversations": asked("<image>\nWhat?")}, "1 <image> placeholders but 0 image"),
    ({"conversations": asked("<region>?")}, "0 <image> placeholders but 1 image"),
    ({"conversations": asked("<image><image><region>?")}, "2 <image> placeholders but 1 image"),
    ({"regions": {"box": [1, 2, 3, 4]}}, "regions is a list"),
    ({"regions": []}, "1 <region> placeholders but 0 regions"),
    ({"regions": [[1, 2, 30, 15]] * 2}, "1 <region> placeholders but 2 regions"),
    ({"conversations": asked("<image>What?")}, "0 <region> placeholders but 1 regions"),
    ({"conversations": asked("<image><Region><L1></Region><region>?")}, "malformed region"),
    ({"regions": [5]}, "regions[0] is [x0, y0, x1, y1]"),
    ({"regions": [None]}, "regions[0] is [x0, y0, x1, y1]"),
    ({"regions": [{}]}, "regions[0] is [x0, y0, x1, y1]"),
    ({"regions": [{"box": [1, 2, 3, 4], "point": [1, 2]}]}, "an object with one of box, point"),
    ({"regions": [{"box": [1, 2, 3, 4], "normalised": True}]}, "unknown keys ['normalised']"),
    ({"regions": [{"box": [1, 2, 3, 4], "normalized": 1}]}, "true or false"),
    ({"regions": [{"box": [1, 2, 3, 4], "image": True}]}, "image an integer"),
    ({"regions": [{"box": [1, 2, 3, 4], "image": 1}]}, "lies on image 1"),
    ({"regions": [{"box": [1, 2, 3, 4], "image": -1}]}, "counted from 0"),
    ({"regions": [[1, 2, 3]]}, "a box is a list of 4 numbers"),
    ({"regions": [[1, 2, 3, "4"]]}, "(x, y) numbers"),
    ({"regions": [[1, 2, 3, None]]}, "(x, y) numbers"),
    ({"regions": [[1, 2, 3, True]]}, "(x, y) numbers"),
    ({"regions": [[1, 2, 3, 10**400]]}, "(x, y) numbers"),
    ({"regions": [[30, 2, 1, 15]]}, "inverted"),
    ({"regions": [[1, 2, 1, 15]]}, "empty"),
    ({"regions": [[0.1, 0.2, 0.5, 0.9]]}, 'for fractions 0..1 say {"box": [...], "normalized": true}'),
    ({"regions": [{"point": [1, 2, 3]}]}, "a point is a list of 2"),
    ({"regions": [{"polygon": [[1, 2], [3, 4]]}]}, "three or more points"),
    ({"regions": [{"polygon": [1, 2, 3, 4, 5, 6]}]}, "(x, y) numbers"),
    ({"regions": [{"scribble": []}]}, "one or more points"),
    ({"regions": [{"scribble": "ab"}]}, "scribble is a list"),
    ({"regions": [{"mask": "../m.png"}]}, "must stay inside"),
    ({"regions": [{"mask": "none.png"}]}, "not in the image folder"),
    ({"regions": [{"mask": 5}]}, "a mask is a PNG path"),
    ({"regions": [{"mask": "a.png", "normalized": True}]}, "cannot be normalized"),
    ({"regions": [{"mask": {"size": [2, 2], "counts": "abc"}}]}, "compressed"),
    ({"regions": [{"mask": {"size": [2, 2], "counts": [1, 2]}}]}, "run lengths sum to 3, the mask is 2x2"),
    ({"regions": [{"mask": {"size": [2, 2], "counts": [4]}}]}, "mask is empty"),
    ({"regions": [{"mask": {"size": [2, 2], "counts": [5, -1]}}]}, "none negative"),
    ({"regions": [{"mask": {"size": [2, 2], "counts": [1.0, 3]}}]}, "none negative"),
    ({"regions": [{"mask": {"size": [10**9, 10**9], "counts": [0, 10**18]}}]}, "the mask is 1000000000x1000000000"),
    ({"regions": [{"mask": {"size": [2], "counts": [0, 2]}}]}, "size is [height, width]"),
    ({"regions": [{"mask": {"size": [2, 2]}}]}, "run lengths are {"),
]


@pytest.mark.parametrize(("changes", "reason"), CASES, ids=[reason[:30] for _, reason in CASES])
def test_refused_with_file_line_and_id(folder: Path, changes: dict[str, Any], reason: str) -> None:
    found = problem(folder, **changes)
    assert found.startswith("train.json line 2 (id '0'): ")
    assert reason in found
    assert len(found) < 400


@pytest.mark.parametrize("value", [None, 5, "text", [1], True])
def test_a_record_is_an_object(folder: Path, value: Any) -> None:
    path = write(folder, f"[\n{json.dumps(record())},\n{json.dumps(value)}]")
    assert "train.json line 3: a record is a JSON object" in validate(path)[0]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"id": 1, "id": 2}', "'id' is given twice"),
        ('{"regions": [{"box": 1, "box": 2}]}', "'box' is given twice"),
        ('{"regions": [NaN]}', "NaN is not valid JSON"),
        ('{"regions": [-Infinity]}', "-Infinity is not valid JSON"),
        (json.dumps(record(regions=[[0, 0, 7, 5]])).replace("7", "1e999"), "not finite"),
    ],
)
def test_ambiguous_json_is_refused_and_reading_goes_on(folder: Path, bad: str, reason: str) -> None:
    good, worse = json.dumps(record(1)), json.dumps(record(2, image=5))
    for text in (f"[{good},\n{bad},\n{good},\n{worse}]", f"{good}\n{bad}\n{good}\n{worse}\n"):
        problems = validate(write(folder, text), folder)
        assert [p.split(":")[0].split(" (")[0] for p in problems] == ["train.json line 2", "train.json line 4"]
        assert reason in problems[0]


def test_all_bad_records_are_listed(folder: Path) -> None:
    rows = [record(number, image="none.png" if number % 2 else "a.png") for number in range(60)]
    path = write(folder, "\n".join(map(json.dumps, rows)))
    problems = validate(path, folder)
    assert [int(found.split()[2]) for found in problems] == list(range(2, 61, 2))
    with pytest.raises(RecordError) as raised:
        load_records(path, folder)
    shown = str(raised.value).splitlines()
    assert shown[0] == "30 bad records:"
    assert shown[1:-1] == problems[:SHOWN_PROBLEMS]
    assert shown[-1] == "... and 10 more"


def test_check_images_resolves_against_upright_sizes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 40)).save(folder / "turned.png", exif=exif)  # upright it is 40 x 20
    (folder / "empty.png").write_bytes(b"")
    rows = [
        record(1, image="turned.png", regions=[[35, 2, 39, 15]]),
        record(2, image="turned.png", regions=[[2, 21, 15, 39]]),
        record(3, image="empty.png"),
        record(4, regions=[{"mask": run_lengths(pixels().T)}]),
    ]
    path = write(folder, "\n".join(map(json.dumps, rows)))
    assert validate(path, folder) == []
    found = validate(path, folder, check_images=True)
    assert [line.split(":")[0] for line in found] == [f"train.json line {n} (id '{n}')" for n in (2, 3, 4)]
    assert "outside" in found[0]
    assert "empty.png" in found[1]
    assert "mask is 20x40" in found[2]
    assert capsys.readouterr().out == ""  # the progress bar goes to stderr
    with pytest.raises(ValueError, match="image_folder"):
        validate(path, check_images=True)


def test_a_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        load_records(folder / "none.json")


def test_real_instructions_as_a_data_file(tmp_path: Path) -> None:
    if not os.environ.get("PVIT_EXT_DATA"):
        pytest.skip("PVIT_EXT_DATA is not set")
    folder = Path(os.environ["PVIT_EXT_DATA"]) / "fineeval"
    rows = [json.loads(line) for line in (folder / "pvit.jsonl").read_text().splitlines()]
    made = [{"image": r["image"], "conversations": asked("<image>\n" + r["instruction"], r["output"])} for r in rows]
    path = write(tmp_path, made)
    assert validate(path, folder / "images", check_images=True) == []
    assert sum(len(r.regions) for r in load_records(path, folder / "images")) == 142
