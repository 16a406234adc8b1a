"""Files of questions: what is read, and what each bad one is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pvit_ext.inference.answer_file import AnswerFile
from pvit_ext.inference.questions import Question, check_choices, question_of, read_questions
from pvit_ext.inference.region_questions import Template, region_questions
from pvit_ext.regions.region import Region

BOX = [10, 10, 30, 30]
FLAT = {"id": 7, "image": "a.png", "question": "What is <region>?", "regions": [BOX]}
TALK = {
    "id": "r",
    "image": "a.png",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is <region>?"},
        {"from": "gpt", "value": "a dog"},
        {"from": "human", "value": "And <region>?"},
        {"from": "gpt", "value": "as <region>"},
    ],
    "regions": [BOX, [1, 2, 20, 21], [5, 5, 9, 9]],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images of 60x40 pixels."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 40)).save(tmp_path / name)
    return tmp_path


def points(one: Question) -> list[Any]:
    return [region.points for region in one.query().regions]


def test_a_flat_question(folder: Path) -> None:
    one = question_of({**FLAT, "history": [["Where is it?", "there"]], "choices": ["yes", "no"]}, "q", folder)
    assert (one.id, one.text, one.images) == ("7", "What is <region>?", (f"{folder}/a.png",))
    assert (one.history, one.choices) == ((("Where is it?", "there"),), ("yes", "no"))
    assert points(one) == [Region.box(*BOX).points]
    assert question_of({"id": 1, "question": "Why?"}, "q", folder).images == ()
    both = question_of({"id": 1, "image": ["a.png", "b.png"], "question": "<image> or <image>?"}, "q", folder)
    assert both.text == "<image> or <image>?"
    written = "What is <Region><L10><L20><L300><L400></Region>?"
    assert question_of({**FLAT, "question": written, "regions": None}, "q", folder).text == "What is <region>?"


def test_of_a_record_the_last_question_is_asked_without_its_answer(folder: Path) -> None:
    one = question_of(TALK, "q", folder)
    assert (one.text, one.history) == ("And <region>?", (("<image>\nWhat is <region>?", "a dog"),))
    assert [region.points for region in one.query().regions] == [
        ((10.0, 10.0), (30.0, 30.0)),
        ((1.0, 2.0), (20.0, 21.0)),
    ]
    begun = {**TALK, "conversations": TALK["conversations"][:3], "regions": TALK["regions"][:2]}
    assert question_of(begun, "q", folder).mark == one.mark


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1], "a question is an object such as"),
        ({**FLAT, "id": None}, "its id is None: answers are kept by it"),
        ({**FLAT, "id": True}, "its id is True"),
        ({"id": 1, "image": "a.png"}, '"question" is a text, got None'),
        ({**FLAT, "question": " "}, '"question" is a text'),
        ({**FLAT, "conversations": []}, "give one of them"),
        ({**TALK, "history": [["What?", "a dog"]]}, '"history" and "conversations"; .*own earlier turns'),
        ({**FLAT, "image": "c.png"}, "'c.png' is not in the image folder"),
        ({**FLAT, "image": "../a.png"}, "must stay inside the image folder"),
        ({**FLAT, "regions": []}, "1 <region> placeholders but 0 regions"),
        ({**FLAT, "regions": [[1, 2, 3]]}, "box is a list of 4 numbers"),
        ({**FLAT, "regions": []}, "^its texts: 1 <region>"),
        (
            {**FLAT, "question": "<region1>?"},
            "^\"question\": '<region1>' is text that no encoder reads; write <region>",
        ),
        ({**FLAT, "history": [["<bbox>?", "a"]]}, r'^"history"\[0\]\[0\]: \'<bbox>\' is text'),
        ({**FLAT, "history": [["a", "a"], ["b", " "]]}, r'^"history"\[1\]\[1\] has an empty value'),
        ({**FLAT, "history": [["a"]]}, r"\[question, answer\]"),
        ({**FLAT, "history": [["a", 3]]}, "a turn is a text, got 3"),
        ({**FLAT, "choices": "ab"}, "is a list of texts"),
        ({**FLAT, "choices": ["a", "a"]}, "two or more different"),
        ({**TALK, "conversations": TALK["conversations"][1:]}, "human and gpt take turns"),
    ],
)
def test_what_is_wrong_is_said(folder: Path, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        question_of(value, "q", folder)


@pytest.mark.parametrize("value", [{"question": "What?"}, {"conversations": [{"from": "human", "value": "What?"}]}])
@pytest.mark.parametrize("key", ["images", "img", "image_path", "Image"])
def test_an_image_under_another_name_is_not_left_out(folder: Path, value: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=f"its image stands under '{key}'; the key is \"image\""):
        question_of({"id": 1, key: "a.png", **value}, "q", folder)


@pytest.mark.parametrize("key", ["boxes", "bbox", "gt_bboxes"])
def test_regions_under_another_name_are_not_left_out(folder: Path, key: str) -> None:
    with pytest.raises(ValueError, match=f"the key '{key}' is not read"):
        question_of({"id": 1, "image": "a.png", "question": "What?", key: [BOX]}, "q", folder)


def test_keys_that_no_question_reads_are_said_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = folder / "q.jsonl"
    lines = [{**FLAT, "id": number, "choice": ["a", "b"], "tags": ["dog"], "system": None} for number in range(3)]
    lines[1]["max_new_tokens"] = 5
    path.write_text("\n".join(map(json.dumps, [*lines, {**TALK, "source": "x"}])))
    read_questions(path, folder)
    (said,) = caplog.messages
    assert "q.jsonl: 'choice' (3 questions), 'max_new_tokens' (1 question) are not read" in said
    assert "'choices'" in said
    caplog.clear()
    path.write_text(json.dumps({**FLAT, "history": [], "choices": ["a", "b"], "lion_task": "region"}))
    read_questions(path, folder)
    assert not caplog.messages


def test_bad_lines_do_not_lose_the_rest_and_ids_are_unique(folder: Path) -> None:
    path = folder / "q.jsonl"
    path.write_text(
        "\n".join([json.dumps(FLAT), "{", json.dumps({**FLAT, "id": 8, "image": "c.png"}), json.dumps(TALK)])
    )
    found, bad = read_questions(path, folder, ("a", "b"))
    assert [one.id for one in found] == ["7", "r"]
    assert found[0].choices == ("a", "b")
    assert [one.location for one in bad] == ["q.jsonl line 2", "q.jsonl line 3 (id '8')"]
    path.write_text("\n".join([json.dumps(FLAT), json.dumps({**TALK, "id": "7"})]))
    with pytest.raises(ValueError, match=r"line 2 \(id '7'\) has the id of q.jsonl line 1"):
        read_questions(path, folder)


def test_a_mark_changes_with_the_question_alone(folder: Path) -> None:
    one = question_of(FLAT, "line 1", folder)
    assert question_of({**FLAT, "id": 9}, "line 2", folder).mark == one.mark
    for key, value in {"question": "Is it <region>?", "regions": [[10, 10, 30, 31]], "image": "b.png"}.items():
        assert question_of({**FLAT, key: value}, "line 1", folder).mark != one.mark
    assert question_of(FLAT, "line 1", folder, ("a", "b")).mark != one.mark
    assert question_of({**FLAT, "lion_task": "image"}, "line 1", folder).mark != one.mark


def test_what_a_record_says_to_a_model_reaches_it(folder: Path) -> None:
    said = {"lion_task": "region", "tags": ["dog"]}
    for value in (FLAT, TALK):
        query = question_of({**value, **said}, "q", folder).query()
        assert (query.task, list(query.tags)) == ("region", ["dog"])
    path = folder / "r.json"
    path.write_text(json.dumps([{**TALK, **said}]))
    assert [one.query().tags for one in region_questions(path, folder, Template("What is <region>?")).questions] == [
        ("dog",)
    ] * 3
    with pytest.raises(ValueError, match="lion_task"):
        question_of({**FLAT, "lion_task": 3}, "q", folder)


def coco(folder: Path) -> Path:
    annotations = [
        {"id": 40 + n, "image_id": 1, "category_id": 3, "bbox": [1, 2, 10 + n, 12], "iscrowd": n // 2} for n in range(3)
    ]
    images = [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}]
    images.append({"id": 2, "file_name": "none.png", "width": 60, "height": 40})
    annotations.append({**annotations[0], "id": 50, "image_id": 2})
    path = folder / "coco.json"
    named = [{"id": 3, "name": "dog"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": named}))
    return path


def test_a_question_about_every_region_of_coco(folder: Path) -> None:
    found = region_questions(coco(folder), folder, Template("What is <region>?", ("a", "b")))
    assert [one.id for one in found.questions] == ["a.png#40", "a.png#41"]
    assert points(found.questions[1]) == [Region.box(1, 2, 12, 14).points]
    assert found.questions[0].about == {"image": "a.png", "region": [1.0, 2.0, 11.0, 14.0], "label": "dog"}
    assert found.questions[0].choices == ("a", "b")
    assert "none.png" in found.bad[0].problem
    assert sum(found.passed_over.values()) == 1


def test_a_question_about_every_region_of_records(folder: Path) -> None:
    path = folder / "r.json"
    two = {**TALK, "id": "two", "image": ["b.png", "a.png"], "regions": [BOX, BOX, {"box": BOX, "image": 1}]}
    two["conversations"] = [{"from": "human", "value": "<image><image> <region> <region>"}, TALK["conversations"][3]]
    path.write_text(json.dumps([TALK, two, {**TALK, "image": "c.png"}]))
    found = region_questions(path, folder, Template("What is <region>?"))
    assert [one.id for one in found.questions] == ["r#0", "r#1", "r#2", "two#0", "two#1", "two#2"]
    assert [Path(one.images[0]).name for one in found.questions[3:]] == ["b.png", "b.png", "a.png"]
    assert points(found.questions[5]) == [Region.box(*BOX).points]
    assert len(found.bad) == 1


@pytest.mark.parametrize("text", ["What is it?", "<region> or <region>?"])
def test_a_template_has_one_region(text: str) -> None:
    with pytest.raises(ValueError, match="has one <region>, this has"):
        Template(text)


def test_a_template_has_no_placeholder_of_other_data_sets() -> None:
    with pytest.raises(ValueError, match=r"has one <region>, this has 0: '<region1>.'; '<region1>' is text that no"):
        Template("<region1>?")
    with pytest.raises(ValueError, match=r"^--question: '<region2>' is text that no encoder reads; write <region>"):
        Template("<region> or <region2>?")


@pytest.mark.parametrize("held", ['{"images": []}', "a\nb", '{"id": "1"}\n{"id": "2"}'])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, held: str) -> None:
    """One written by another program may end without a line break, as COCO's do."""
    path = tmp_path / "instances.json"
    path.write_text(held)
    with pytest.raises(ValueError, match="is no file of answers"), AnswerFile(path, {"model": "m"}) as answers:
        answers.gather()
    assert path.read_text() == held


def test_what_was_not_written_to_its_end_is_written_again(tmp_path: Path) -> None:
    answers = AnswerFile(tmp_path / "out.jsonl", {"model": "m"})
    for torn in ("", '{"ru', '{"run": {"model"', '{"run": {"model": "m"}}\n{"id": "1", "ans'):
        answers.main.write_text(torn)
        answers.gather()
        assert answers.main.read_text() == '{"run": {"model": "m"}}\n'


@pytest.mark.parametrize("given", [["a"], ["a", "a"], ["a", ""], ["a", "<region>"], ["a", 3]])
def test_choices_are_different_texts(given: list[Any]) -> None:
    with pytest.raises(ValueError, match="choice"):
        check_choices(given)


def test_answers_are_arranged_in_the_order_of_the_questions(tmp_path: Path) -> None:
    answers = AnswerFile(tmp_path / "out.jsonl", {"model": "m"})
    answers.gather()
    answers.append({"id": id, "answer": id} for id in "cxab")
    answers.arrange("abcd")
    assert [*answers.lines()] == [*"abcx"]
    answers.append([{"id": "d", "answer": "d"}])
    assert [*AnswerFile(answers.main, {"model": "m"}).lines()] == [*"abcxd"]


@pytest.mark.parametrize("name", ["out.jsonl", "out[1].jsonl", "out*.jsonl"])
def test_answers_of_every_rank_are_taken_in(tmp_path: Path, name: str) -> None:
    for rank in (1, 2):
        AnswerFile(tmp_path / name, {"model": "m"}, rank).append([{"id": f"{rank}", "answer": "a"}])
    answers = AnswerFile(tmp_path / name, {"model": "m"})
    answers.gather()
    assert [*answers.lines()] == ["1", "2"]
    assert [*tmp_path.iterdir()] == [answers.main]
