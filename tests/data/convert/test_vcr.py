"""VCR: words and positions, the right answer and why."""

import json
import shutil

import pytest

from pvit_ext.data.check import validate
from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.formats.vcr import WHY
from pvit_ext.data.convert.formats.vcr_text import vcr_text
from tests.data.convert.truth import FIXTURES, converted, read, reasons, texts_of

LINES, FOLDER = "vcr/val.jsonl", "vcr/vcr1images"


def test_answers_name_what_the_question_introduces(tmp_path):
    records, report = converted(tmp_path, "vcr", LINES, FOLDER, max_bad_records=1)
    (record,) = records
    asked, answer, why, reason = texts_of(record)
    assert asked == "<image>\nWhat is person 1 <region> doing with cup 2 <region> and cup 3 <region>?"
    assert (answer, reason) == ("Looking at cup 2.", "Person 1 faces cup 2 and cup 3.")
    assert why in WHY
    assert record["regions"][1] == {"polygon": [[30, 40, 40, 40, 40, 52, 30, 52]]}
    assert len(record["regions"][0]["polygon"]) == 2
    assert report.dropped == {"bad": 1, "incomplete": 1}
    assert validate(tmp_path / "out.jsonl", FIXTURES / FOLDER, check_images=True) == []


def test_positions_beyond_the_objects_are_bad_not_lost():
    _, notes = read("vcr", LINES, FOLDER)
    (bad,) = [drop for drop in notes.drops if drop.reason.name == "BAD"]
    assert (bad.location, bad.detail) == ("val.jsonl line 2", "it names object 7 of 4, counted from 0")


def _lines(tmp_path, *changes):
    first = json.loads((FIXTURES / LINES).read_text().splitlines()[0])
    path = tmp_path / "val.jsonl"
    path.write_text("\n".join(json.dumps({**first, **change}) for change in changes))
    return path


def test_questions_of_a_image_are_one_conversation(tmp_path):
    other = {"annot_id": "val-9", "question": ["Is", [2], "behind", [3], "?"], "answer_label": 0}
    source = _lines(tmp_path, {}, other)
    records, _ = converted(tmp_path, "vcr", source, FOLDER, settings={"rationale": "no"})
    (record,) = records
    assert texts_of(record) == [
        "<image>\nWhat is person 1 <region> doing with cup 2 <region> and cup 3 <region>?",
        "Looking at cup 2.",
        "Is cup 3 behind dining table 4 <region>?",
        "Standing behind dining table 4.",
    ]
    assert len(record["regions"]) == 4


def test_what_only_an_answer_names_is_introduced_before_its_question(tmp_path):
    source = _lines(tmp_path, {"question": ["What", "is", "there", "?"], "answer_label": 0})
    records, _ = converted(tmp_path, "vcr", source, FOLDER, settings={"rationale": "no"})
    assert texts_of(records[0]) == [
        "<image>\nDining table 4 is <region>. What is there?",
        "Standing behind dining table 4.",
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["Does", [0], "'", "s", "dog", ",", "that", "is", "n't", "small", "(", "or", "big", ")", "?"],
         "Does <>'s dog, that isn't small (or big)?"),
        ([[0], "and", [1], "leave", "."], "<> and <> leave."),
        (["It", "'s", "5", "%", "."], "It's 5%."),
    ],
)  # fmt: skip
def test_words_become_text(words, text):
    assert vcr_text(words, 2).text == text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"answer_label": 4}, "answer_label is 4 of 4 choices"),
        ({"question": "What?"}, "'question' is a list, got 'What"),
        ({"question": ["What", 3]}, "a word is text, got 3"),
        ({"question": ["What", [-1]]}, "it names object -1 of 4"),
        ({"objects": ["person"]}, "1 objects, but 4 boxes in its metadata"),
        ({"metadata_fn": "../x.json"}, "metadata_fn .* must stay inside the image folder"),
    ],
)
def test_damage_is_named(tmp_path, change, expected):
    with pytest.raises(SourceError, match=expected):
        converted(tmp_path, "vcr", _lines(tmp_path, change), FOLDER)


def test_metadata_that_is_not_there_or_damaged(tmp_path):
    folder = tmp_path / "vcr1images"
    shutil.copytree(FIXTURES / FOLDER, folder)
    first = next(path for path in sorted(folder.rglob("*.json")) if "01.00.000" in path.name)
    first.write_text("{")
    with pytest.raises(SourceError, match=r"line 1, .*01\.05\.000@0\.json: its metadata cannot be read"):
        converted(tmp_path, "vcr", LINES, folder)
    first.unlink()
    _, notes = read("vcr", LINES, folder)
    assert reasons(notes)["incomplete"] == 2


def test_a_region_of_no_use_costs_its_question_alone(tmp_path):
    folder = tmp_path / "vcr1images"
    shutil.copytree(FIXTURES / FOLDER, folder)
    path = next(path for path in sorted(folder.rglob("*.json")) if "01.00.000" in path.name)
    value = json.loads(path.read_text())
    value["boxes"][2][2] = value["boxes"][2][0]
    path.write_text(json.dumps(value))
    other = {"question": ["Is", [1], "red", "?"], "answer_label": 3}
    images, notes = read("vcr", _lines(tmp_path, {}, other), folder, rationale="no")
    ((image,),) = images.values()
    assert image.conversations[0].turns == ("Is <region> red?", "Nothing.")
    assert reasons(notes) == {"degenerate": 1}


def test_a_folder_is_its_train_file_unless_another_is_named(tmp_path):
    folder = tmp_path / "vcr1annots"
    folder.mkdir()
    shutil.copy(FIXTURES / LINES, folder / "val.jsonl")
    with pytest.raises(SourceError, match=r"train\.jsonl is not there; .* holds val\.jsonl"):
        converted(tmp_path, "vcr", folder, FOLDER)
    first = (folder / "val.jsonl").read_text().splitlines()[0]
    (folder / "train.jsonl").write_text(first)
    (one,), report = converted(tmp_path, "auto", folder, FOLDER)
    assert any("train.jsonl is read, not val.jsonl; --set split=val" in line for line in report.remarks)
    (other,), _ = converted(tmp_path, "vcr", folder, FOLDER, settings={"split": "val"}, max_bad_records=1)
    assert other["conversations"] == one["conversations"]
    with pytest.raises(SourceError, match="is one file: split chooses a file of a folder"):
        converted(tmp_path, "vcr", folder / "val.jsonl", FOLDER, settings={"split": "val"})


def test_lines_with_their_boxes_as_shikra_s(tmp_path):
    first = json.loads((FIXTURES / LINES).read_text().splitlines()[0])
    metadata = json.loads((FIXTURES / FOLDER / first.pop("metadata_fn")).read_text())
    (tmp_path / "source.jsonl").write_text(json.dumps({**first, "boxes": metadata["boxes"]}))
    (record,), _ = converted(tmp_path, "auto", tmp_path / "source.jsonl", FOLDER)
    assert texts_of(record)[0] == "<image>\nWhat is person 1 <region> doing with cup 2 <region> and cup 3 <region>?"
    assert record["regions"][1] == [30, 40, 40, 52]


def test_outlines_that_are_not_their_boxes_are_counted(tmp_path):
    first = json.loads((FIXTURES / LINES).read_text().splitlines()[0])
    metadata = json.loads((FIXTURES / FOLDER / first.pop("metadata_fn")).read_text())
    boxes, segms = metadata["boxes"], metadata["segms"]
    segms[0], segms[1] = [[[900, 900], [950, 900], [950, 950]]], segms[2]
    line = json.dumps({**first, "boxes": boxes, "segms": [*segms, [[[1, 1], [5, 1], [5, 5]]]]})
    (tmp_path / "source.jsonl").write_text(line)
    (record,), report = converted(tmp_path, "vcr", tmp_path / "source.jsonl", FOLDER)
    assert record["regions"][:2] == [boxes[0][:4], boxes[1][:4]]
    counts = {name: count for name, count in report.counts.items() if "outlines" in name}
    assert counts == {
        "masks or outlines of no use, kept as boxes": 1,
        "masks or outlines that do not fit their box, kept as boxes": 1,
        "masks or outlines without a box, left out": 1,
    }


def test_lines_are_counted_as_an_editor_does(tmp_path):
    source = _lines(tmp_path, {}, {"answer_label": 9})
    source.write_text("\n\n" + source.read_text().replace("\n", "\n\n"))
    _, notes = read("vcr", source, FOLDER)
    assert [drop.location for drop in notes.drops if drop.reason.name == "BAD"] == ["val.jsonl line 5"]
