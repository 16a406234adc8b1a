"""GQA: words that name objects of a scene graph."""

import json
import shutil

import pytest

from pvit_ext.data.check import validate
from pvit_ext.data.convert.base import SourceError
from tests.data.convert.truth import FIXTURES, boxes_of, converted, read, reasons

QUESTIONS = "gqa/val_balanced_questions.json"


def test_questions_point_at_the_objects_that_their_words_name():
    images, notes = read("gqa", QUESTIONS, "gqa")
    (one,), (two,) = images["images/1.jpg"], images["images/2.jpg"]
    assert one.questions[0].question == "What is to the right of the dog <region>?"
    assert one.questions[0].answer == "ball"
    assert [one.objects[place].label for place in one.questions[0].regions] == ["dog"]
    assert [item.question for item in two.questions] == [
        "Is the yellow cup <region> on the dining table <region> made of wood?",
        "What are the cups <region>, <region> in front of?",
        "Which kind of bag is there?",
    ]
    assert [two.objects[place].box for place in two.questions[1].regions] == [(30, 40, 40, 52), (34, 10, 44, 22)]
    assert notes.counts["objects that questions name and the scene graph lacks"] == 1
    assert not notes.drops


def test_objects_of_question_and_answer_are_kept():
    (one,) = read("gqa", QUESTIONS, "gqa")[0]["images/1.jpg"]
    assert boxes_of(one) == [("ball", (44, 30, 54, 40)), ("dog", (8, 16, 32, 40))]
    assert [item.attributes for item in one.objects] == [("brown",), ("orange",)]
    assert [(item.subject, item.predicate, item.object) for item in one.relations] == [
        (0, "to the left of", 1),
        (1, "to the right of", 0),
    ]


def test_all_objects_and_full_answers():
    images, _ = read("gqa", "gqa", "gqa", objects="all", answers="full")
    (one,) = images["images/1.jpg"]
    assert len(one.objects) == 3
    assert one.questions[0].answer == "The ball is to the right of the dog."


def test_records_train(tmp_path):
    records, report = converted(tmp_path, "auto", "gqa", "gqa", workers=1)
    assert validate(tmp_path / "out.jsonl", FIXTURES / "gqa", check_images=True) == []
    assert (len(records), report.format) == (2, "gqa")


def _folder(tmp_path, questions=None, scenes=None):
    folder = tmp_path / "gqa"
    shutil.copytree(FIXTURES / "gqa", folder)
    for name, change in (("val_balanced_questions.json", questions), ("val_sceneGraphs.json", scenes)):
        if change:
            value = json.loads((folder / name).read_text())
            change(value)
            (folder / name).write_text(json.dumps(value))
    return folder


def test_questions_without_scene_graphs_are_refused():
    with pytest.raises(SourceError, match="regions of GQA come from scene graphs, which train and val have"):
        read("gqa", "gqa/gqa_without/x.json", "gqa")


def test_an_image_without_a_scene_graph_is_counted(tmp_path):
    folder = _folder(tmp_path, scenes=lambda value: value.pop("2"))
    images, notes = read("gqa", folder, "gqa")
    assert list(images) == ["images/1.jpg"]
    assert reasons(notes) == {"incomplete": 3}


@pytest.mark.parametrize(
    ("questions", "scenes", "expected"),
    [
        (lambda v: v["0501"]["annotations"].update(question={"9": "11"}), None, "question 0501: .*words '9' of 8"),
        (lambda v: v["0501"]["annotations"].update(question={"a": "11"}), None, "question 0501: .*words 'a' of 8"),
        (lambda v: v["0501"].update(answer=3), None, "question 0501: 'answer' is text, got 3"),
        (lambda v: v["0501"].update(annotations=[1]), None, "question 0501: annotations is an object"),
        (None, lambda v: v["1"]["objects"]["11"].update(w="a"), "sceneGraphs.json image 1: x, y, w, h is a list"),
        (None, lambda v: v["1"].pop("objects"), "sceneGraphs.json image 1: 'objects' is missing"),
    ],
)
def test_damage_is_named(tmp_path, questions, scenes, expected):
    with pytest.raises(SourceError, match=expected):
        converted(tmp_path, "gqa", _folder(tmp_path, questions, scenes), "gqa")


def test_boxes_of_no_use_are_counted(tmp_path):
    folder = _folder(tmp_path, scenes=lambda value: value["1"]["objects"]["12"].update(w=0))
    images, notes = read("gqa", folder, "gqa")
    assert boxes_of(images["images/1.jpg"][0]) == [("dog", (8, 16, 32, 40))]
    assert reasons(notes) == {"degenerate": 1}


def test_a_file_that_breaks_off(tmp_path):
    folder = _folder(tmp_path)
    path = folder / "val_balanced_questions.json"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(SourceError, match=r"val_balanced_questions\.json line 1: expected .*cut off"):
        converted(tmp_path, "gqa", folder, "gqa")
