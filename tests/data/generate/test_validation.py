"""Replies: the verdicts of the fixtures, the rules one by one, and what the captions contradict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic", "2.4")

from pvit_ext.data.generate.contradiction import contradiction
from pvit_ext.data.generate.reply import BadReply, Refused, message_text, read_body
from pvit_ext.data.generate.scene import Scene
from pvit_ext.data.generate.scene_record import parse_scene
from pvit_ext.data.generate.schema import Description, Dialogue, parse, response_format
from pvit_ext.data.generate.strategies import STRATEGIES, Job, NotApplicable, make_job
from pvit_ext.data.generate.validation import check_description, check_dialogue
from tests.data.generate.samples import CAPTIONS, scene, write_scenes


@pytest.fixture
def job(tmp_path: Path) -> Job:
    write_scenes(tmp_path)
    return make_job(parse_scene(scene(), str(tmp_path), "s"), "attribute", 0, False)


def dialogue(*turns: tuple[str, str]) -> Dialogue:
    return Dialogue.model_validate({"turns": [{"question": q, "answer": a} for q, a in turns]})


def checked(job: Job, question: str, answer: str = "It is brown.") -> tuple[str, str, tuple[int, ...]]:
    (turn,) = check_dialogue(dialogue((question, answer)), job, (1, 1))
    return turn.question, turn.answer, turn.regions


def chat(content: Any, **choice: Any) -> str:
    message = {"role": "assistant", "content": content, **choice.pop("message", {})}
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop", **choice}]})


def test_names_become_placeholders_in_their_order(job: Job) -> None:
    assert checked(job, " Is [R3] above [r1] and [R3]? ") == (
        "Is <region> above <region> and <region>?",
        "It is brown.",
        (2, 0, 2),
    )


def test_a_box_that_was_shown_is_its_region(job: Job) -> None:
    question = "What says <Region>[0.625, 0.083, 0.938, 0.333]</Region> to [R2]?"
    assert checked(job, question)[::2] == ("What says <region> to <region>?", (2, 1))


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        ("What is it?", "points at no region"),
        ("What is [R4]?", r"'\[R4\]' is no region of this image; there are \[R1\] to \[R3\]"),
        ("What is [R0]?", "no region of this image"),
        ("What is [R1, R2]?", r"R1 in a question is written \[R1\]"),
        ("What is <region>?", "write the name of a region"),
        ("What is <Region>[0.1, 0.2, 0.3, 0.4]</Region>?", "was not shown"),
        ("What is <Region>[0.1, 0.2, 0.3]</Region>?", "malformed region"),
        ("What is <Region>[0.625, 0.083, 0.938, 0.333]?", "without its partner"),
        ("What is [R1] at (0.12, 0.5)?", "holds coordinates"),
        ("What is [R1] by the captions?", "speaks of the input"),
        ("<image>\nWhat is [R1]?", "special token '<image>'"),
        ("What is [R1]?</s>", "special token '</s>'"),
        ("What is [R1] <|im_end|>?", "special token"),
        ("What is [R1] <bbox>?", "no encoder reads"),
        ("What is [R1] \ud83d?", "surrogate"),
        (" ", "the question is empty"),
    ],
)
def test_questions_that_are_refused(job: Job, question: str, problem: str) -> None:
    with pytest.raises(BadReply, match=problem):
        checked(job, question)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("It is [R2].", "holds a region"),
        ("The thing R2.", "holds a region"),
        ("It is <region>.", "holds a region|no encoder"),
        ("At [0.625, 0.083, 0.938, 0.333].", "holds coordinates"),
        ("At 0.62, 0.08.", "holds coordinates"),
        ("At (12, 30).", "holds coordinates"),
        ("At <L12><L40>.", "holds coordinates"),
        ("It is not clear from the image.", "unsure"),
        ("I cannot tell.", "unsure"),
        ("According to the captions, a dog.", "speaks of the input"),
        ("The bounding box shows a dog.", "speaks of the input"),
        ("The dog is black.", "contradicts .* 'black dog', where a caption says 'brown dog'"),
        ("There is no ball.", "there is no ball, but there is one"),
        ("", "the answer is empty"),
        ("A dog. <image>", "special token"),
    ],
)
def test_answers_that_are_refused(job: Job, answer: str, problem: str) -> None:
    with pytest.raises(BadReply, match=problem):
        checked(job, "What is [R1]?", answer)


@pytest.mark.parametrize(
    "answer",
    ["Room 4, on floor 2.", "It says 12:30, 1,000 m.", "He signs the document.", "A brown dog (lying).", "Use <b>."],
)
def test_answers_with_ordinary_numbers_are_kept(job: Job, answer: str) -> None:
    assert checked(job, "What is [R1]?", answer)[1] == answer


def test_of_a_question_asked_twice_the_first_is_kept(job: Job) -> None:
    reply = dialogue(("What is [R1]?", "A dog."), ("What is [R1]?", "A brown dog."), ("What is [R2]?", "A ball."))
    assert [turn.answer for turn in check_dialogue(reply, job, (1, 5))] == ["A dog.", "A ball."]
    with pytest.raises(BadReply, match="2 different question"):
        check_dialogue(reply, job, (3, 5))


def test_what_is_asked_about_must_be_pointed_at(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    known = parse_scene(scene(labels=["dog", "dog", "sign"]), str(tmp_path), "s")
    job = make_job(known, "same_category", 0, False)
    assert job.asked == (0, 1)
    with pytest.raises(BadReply, match=r"ask_about: \[R1\], \[R2\]"):
        checked(job, "What is [R3]?", "A sign.")
    ocr = make_job(known, "ocr", 0, False)
    with pytest.raises(BadReply, match="quotes the words"):
        checked(ocr, "What does [R3] say?", "It says go.")
    assert checked(ocr, "What does [R3] say?", "It says 'stop'.")


def test_a_description_is_grounded_word_for_word(job: Job) -> None:
    def made(phrase: str, region: str) -> Description:
        grounding = [{"phrase": phrase, "region": region}]
        return Description.model_validate({"description": "A brown dog rests.", "grounding": grounding})

    assert check_description(made("brown dog", "[R1]"), job).grounding[0].phrase == "brown dog"
    with pytest.raises(BadReply, match="word for word"):
        check_description(made("black dog", "[R1]"), job)
    with pytest.raises(BadReply, match="no region of this image"):
        check_description(made("brown dog", "[R9]"), job)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "no valid JSON"),
        ('{"turns": [{"question": "Q", "answer": "A",}]}', "no valid JSON"),
        ('{"turns": []}{"turns": []}', "no valid JSON"),
        ('{"turns": [], "turns": []}', "given twice"),
        ('{"turns": NaN}', "NaN"),
        ('{"conversation": []}', "schema: (turns|conversation)"),
        ('{"turns": [{"question": "Q", "answer": 3}]}', r"schema: turns\.0\.answer"),
        ("[" * 100_000, "no usable JSON|no valid JSON"),
    ],
)
def test_texts_that_are_no_reply(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(text, Dialogue)


def test_a_code_fence_is_taken_off() -> None:
    assert parse('Sure!\n```json\n{"turns": []}\n```\nBye', Dialogue).turns == []


def test_refusals_and_cut_replies() -> None:
    with pytest.raises(Refused, match="refused: No"):
        message_text(read_body(chat(None, message={"refusal": "No"})))
    with pytest.raises(Refused, match="filter"):
        message_text(read_body(chat("", finish_reason="content_filter")))
    for raw, problem in (
        (chat("{", finish_reason="length"), "cut off"),
        (chat(None), "empty"),
        ('{"choices": []}', "no choices"),
    ):
        with pytest.raises(BadReply, match=problem):
            message_text(read_body(raw))
    for raw in ("<html>", "[]", '{"error": {"message": "model is loading"}}'):
        with pytest.raises(ValueError, match=r"the reply is no JSON|status 200"):
            read_body(raw)


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("A black dog.", "black dog"),
        ("The ball is green.", "green ball"),
        ("Three men are there.", "three men"),
        ("There are 12 men.", "twelve men"),
        ("The men are standing.", "standing men"),
        ("There isn't any dog in sight.", "no dog"),
        ("A brown and white dog beside an orange ball.", None),
        ("Two men sit on it.", None),
        ("One dog, one ball.", None),
        ("The black shoes belong to one of the men.", None),
        ("There is no doubt about it.", None),
        ("The grass is green and the dog is brown.", None),
    ],
)
def test_contradictions(answer: str, found: str | None) -> None:
    problem = contradiction(answer, [*CAPTIONS, "Two men are sitting on a bench."], ["dog", "ball"])
    assert (found is None) == (problem is None)
    assert found is None or found in str(problem)


def test_of_two_dogs_one_may_be_black() -> None:
    assert contradiction("The black dog.", CAPTIONS, ["dog", "dog"]) is None


def test_the_schema_is_of_the_strict_subset() -> None:
    for kind in (Dialogue, Description):
        text = json.dumps(response_format(kind))
        assert "$ref" not in text
        assert text.count('"additionalProperties": false') == text.count('"type": "object"') == 2
    assert "description" in response_format(Description)["json_schema"]["schema"]["properties"]


def test_which_scenes_a_strategy_can_use(tmp_path: Path) -> None:
    write_scenes(tmp_path)

    def usable(with_image: bool, **other: Any) -> set[str]:
        bare: dict[str, Any] = dict.fromkeys(("labels", "attributes", "texts", "captions", "relations"))
        made: Scene = parse_scene(scene(**{**bare, **other}), str(tmp_path), "s")
        found = set()
        for name in STRATEGIES:
            try:
                found.add(make_job(made, name, 0, with_image).strategy)
            except NotApplicable:
                continue
        return found

    assert usable(False) == set()
    assert usable(True) == {*STRATEGIES} - {"same_category"}
    assert usable(False, labels=["a", "a", "b"]) == {"small_objects", "same_category", "multi_turn"}
    assert usable(False, captions=["A dog."]) == {"relationship", "attribute", "general"}
    assert usable(False, phrases=[["a red dog"], [], []]) == {"relationship", "attribute", "general"}
    assert usable(False, texts=[None, None, "STOP"]) == {"ocr"}
    assert usable(False, attributes=[["red"], [], []]) == {"attribute"}
    assert usable(False, relations=[[0, "on", 1]]) == {"relationship"}


REPLIES = json.loads(Path(__file__).with_name("replies.json").read_text())
TEXT_FORMS = {"task_output_text", "multi_turn_questions", "general_ok"}  # used where text was asked for; here JSON is


@pytest.mark.parametrize("name", REPLIES)
def test_the_verdict_on_each_recorded_reply(name: str, tmp_path: Path) -> None:
    write_scenes(tmp_path)
    job = make_job(parse_scene(scene(), str(tmp_path), "s"), "ocr", 0, False)
    verdict, raw = REPLIES[name]["verdict"], REPLIES[name]["raw"]

    def read() -> int:
        return len(check_dialogue(parse(message_text(read_body(raw)), Dialogue), job, (1, 3)))

    if verdict.startswith(("use", "keep")) and name not in TEXT_FORMS:
        assert read() == 1
        return
    with pytest.raises(Refused if "do not retry" in verdict else ValueError):
        read()
