"""Data files and stored answers that hold null for a text: said in one line, and neither asked nor scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.evaluation.stored import read_answers
from pvit_ext.evaluation.task import TASKS, TaskOptions
from tests.evaluation import judged

GAR = {"image": "0.png", "mask_rles": [], "question": "q", "choices": ["A. x"], "answer": "A", "type": "t"}
ROC = {"image_path": "0.png", "bbox": [1, 2, 30, 20], "name": "a", "neg_class": "b", "synonyms": []}
REC = {"image": "0.png", "sent": "x", "bbox": [1, 2, 30, 20]}
POPE = {"image": "0.png", "text": "a dog?", "label": "yes"}
GQA = {"question": "q", "imageId": "0", "answer": "x"}
COCO: dict[str, list[Any]] = {
    "images": [{"id": 1, "file_name": "0.png"}],
    "annotations": [{"id": 1, "image_id": 1, "bbox": [1, 2, 3, 4], "category_id": 1}],
    "categories": [{"id": 1, "name": "dog"}],
}
CAPTION = {"image": "0.png", "mask_rles": [], "question": "q", "answer": "a"}


def task_of(name: str, data: Path, settings: dict[str, str] | None = None) -> Any:
    return TASKS.require(name)(TaskOptions(data, str(data.parent), settings or {}))


@pytest.mark.parametrize(
    ("task", "data", "said"),
    [
        ("pope", {**POPE, "image": None}, "line 1: expected image, text and label.*image is no text but None"),
        ("pope", {**POPE, "text": None}, "text is no text but None"),
        ("pope", {**POPE, "label": ["yes"]}, "label is no text"),
        ("gqa", {"7": {**GQA, "question": None}}, "question 7 is none of GQA's.*question is no text but None"),
        ("gqa", {"7": {**GQA, "answer": None}}, "answer is no text but None"),
        ("gqa", {"7": {**GQA, "imageId": None}}, "imageId is null"),
        ("gar-bench-vqa", [{**GAR, "image": None}], "item 0 is none of GAR-Bench VQA.*image is no text"),
        ("gar-bench-vqa", [{**GAR, "answer": None}], "answer is no text but None"),
        ("gar-bench-vqa", [{**GAR, "choices": "A. x"}], "choices is no list but 'A. x'"),
        ("gar-bench-captions", [{**CAPTION, "image": None}], "item 0 is none of .*image is no text"),
        ("gar-bench-captions", [{**CAPTION, "answer": None}], "answer is no text but None"),
        ("grounding", {**REC, "image": None}, "line 1: expected image, sent.*image is no text"),
        ("grounding", {**REC, "sent": None}, "sent is no text but None"),
        ("lvis-roc", {**ROC, "name": None}, "line 1 is none of LVIS-ROC.*name is no text"),
        ("lvis-roc", {**ROC, "synonyms": [None]}, "synonyms 0 is no text but None"),
        ("lvis-roc", {**ROC, "synonyms": "xyz"}, "synonyms is no list but 'xyz'"),
        ("region-classification", {**COCO, "images": [{}]}, "image at place 0: expected id"),
        ("region-classification", {**COCO, "categories": [None]}, "category at place 0: expected id and name"),
        ("region-classification", {**COCO, "categories": [{"id": 1, "name": None}]}, "category at place 0"),
        ("region-classification", {**COCO, "annotations": [None]}, "annotation at place 0 is no object but None"),
        (
            "region-classification",
            {**COCO, "annotations": [{**COCO["annotations"][0], "iscrowd": "maybe"}]},
            "data.json annotation 1: iscrowd is 0 or 1, got 'maybe'",
        ),
        (
            "region-classification",
            {**COCO, "annotations": [{**COCO["annotations"][0], "bbox": ["a", 2, 3, 4]}]},
            r"annotation 1 has no id, no bbox .*bbox is \['a', 2, 3, 4\]",
        ),
    ],
)
def test_a_field_that_is_no_text_is_named(tmp_path: Path, task: str, data: Any, said: str) -> None:
    (tmp_path / "data.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=said):
        list(task_of(task, tmp_path / "data.json").load())


@pytest.mark.parametrize(
    ("task", "data", "stored", "said"),
    [
        ("gqa", {"7": GQA}, [{"questionId": "7", "prediction": None}], "question 7 has no prediction that is a text"),
        ("gar-bench-vqa", [GAR], [{**GAR, "model_output": None}], "item 0 has no model_output that is a text"),
        ("gar-bench-captions", [CAPTION], [{**CAPTION, "model_output": None}], "item 0 has no model_output that is"),
    ],
)
def test_an_answer_that_is_null_is_not_scored(tmp_path: Path, task: str, data: Any, stored: Any, said: str) -> None:
    for name, value in (("data.json", data), ("stored.json", stored)):
        (tmp_path / name).write_text(json.dumps(value))
    with pytest.raises(ValueError, match=said):
        task_of(task, tmp_path / "data.json").stored_answers(tmp_path / "stored.json")


def test_an_answer_of_judged_benchmarks_that_is_null_is_not_judged(tmp_path: Path) -> None:
    folder = judged.dlc_bench(tmp_path / "dlc")
    (tmp_path / "pred.json").write_text('{"501": {"x": 1}}')
    with pytest.raises(ValueError, match="object 501 has no description"):
        task_of("dlc-bench", folder).stored_answers(tmp_path / "pred.json")
    names = json.loads((folder / "class_names.json").read_text())
    (folder / "class_names.json").write_text(json.dumps({**names, "502": None}))
    with pytest.raises(ValueError, match=r"object 502 is none of DLC-Bench's .*502 is no text but None"):
        list(task_of("dlc-bench", folder).load())


def test_a_ranked_answer_that_is_null_is_not_shown(tmp_path: Path) -> None:
    line = {"image": "0.png", "instruction": "What is it?"}
    judged.write_lines(tmp_path / "instructions.jsonl", [line])
    judged.write_lines(tmp_path / "pvit.jsonl", [{**line, "output": None}])
    task = task_of("fineeval", tmp_path, {"systems": "pvit"})
    with pytest.raises(ValueError, match=r"pvit.jsonl line 1 has no output that is a text"):
        list(task.load())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"run": 5}, "line 1: expected"),
        ({"run": None}, "line 1: expected"),
        ({"id": "0", "answer": None}, "line 1: expected"),
        ({"id": "0", "answer": "a", "areas": 5}, "line 1: areas is a list of numbers, got 5"),
        ({"id": "0", "answer": "a", "areas": ["9"]}, "areas is a list of numbers"),
    ],
)
def test_a_line_that_is_no_answer_is_named(tmp_path: Path, line: Any, said: str) -> None:
    read: Callable[[Path], Any] = read_answers
    judged.write_lines(tmp_path / "stored.jsonl", [line])
    with pytest.raises(ValueError, match=said):
        read(tmp_path / "stored.jsonl")
    judged.write_lines(tmp_path / "stored.jsonl", [{"id": "0", "answer": "a", "areas": None}])
    assert len(read(tmp_path / "stored.jsonl")) == 1
