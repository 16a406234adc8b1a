"""LVIS-ROC, GQA and V*: how their questions are built and their answers read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pvit_ext.evaluation.answers import chosen_letter, only_letter
from pvit_ext.evaluation.task import TASKS, TaskOptions
from tests.evaluation.test_benchmarks import answered, lines, run

ROC: list[tuple[str, list[str], str, str, bool]] = [
    ("dog", ["dog", "pooch"], "cat", "It is a dog.", True),
    ("cup", ["cup"], "bowl", "It is a bowl, not a cup.", False),
    ("street_sign", ["street_sign"], "bow_(decorative_ribbons)", "a street sign", True),
    ("person", ["person", "baby", "man"], "cow", "The man or the cow", True),
    ("bird", ["bird"], "boat", "Bird", False),
    ("dog", ["dog"], "cat", "It is now a dog.", False),
    ("cup", ["cup"], "boat", "A cupboard", True),
    ("monitor_(computer_equipment)", ["computer_monitor"], "cat", "a piece of computer equipment", True),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 48)).save(tmp_path / "1.jpg")
    return tmp_path


def roc(folder: Path) -> Path:
    shape = [[int(8 <= x < 20 and y < 9) for y in range(48)] for x in range(64)]
    line = {"image_path": "1.jpg", "bbox": [8.0, 16.0, 32.0, 40.0], "sample_point": [20.0, 28.0]}
    shapes = [shape, None, *[shape] * 6]
    names = [{"name": name, "synonyms": synonyms, "neg_class": other} for name, synonyms, other, *_ in ROC]
    pairs = zip(names, shapes, strict=True)
    return lines(folder / "lvis_eval.jsonl", (line | one | {"free_shape_segment_mask": mask} for one, mask in pairs))


def test_lvis_roc_is_read_as_ferrets_script_does(folder: Path) -> None:
    values = run("lvis-roc", folder, roc(folder), answered(folder / "a.jsonl", (text for *_, text, _ in ROC)))
    assert values["metrics"]["accuracy"] == sum(right for *_, right in ROC) / 8
    task = TASKS.require("lvis-roc")(TaskOptions(folder / "lvis_eval.jsonl", str(folder)))
    samples = list(task.load())
    assert samples[0].question == "Is the object <region> a dog or a cat?"
    assert samples[1].question == "Is the object <region> a bowl or a cup?"
    assert [task.parse(one, text).score for one, (*_, text, _) in zip(samples, ROC, strict=True)] == [
        float(right) for *_, right in ROC
    ]


def test_lvis_roc_shows_points_and_shapes(folder: Path) -> None:
    kinds = {}
    for region in ("box", "point", "mask"):
        task = TASKS.require("lvis-roc")(TaskOptions(roc(folder), str(folder), {"region": region}))
        samples = list(task.load())
        kinds[region] = (samples[0].regions()[0].kind, len(samples))
        if region == "mask":
            assert task.left_out == {"no free shape": 1}
            assert samples[0].regions()[0].resolve((64, 48)).bounds((64, 48)) == (8, 0, 20, 9)
    assert kinds == {"box": ("box", 8), "point": ("point", 8), "mask": ("mask", 7)}


QUESTIONS: dict[str, Any] = {
    "01": {
        "question": "What is to the right of the dog?",
        "imageId": "1",
        "answer": "ball",
        "annotations": {"question": {"7": "11"}},
        "types": {"structural": "query"},
    },
    "02": {
        "question": "Is the brown dog near the balls?",
        "imageId": "1",
        "answer": "yes",
        "annotations": {"question": {"2:4": "11", "6": "12,13", "0": "99"}},
        "types": {"structural": "verify"},
    },
    "03": {"question": "Is it day?", "imageId": "1", "answer": "no", "annotations": {"question": {}}},
}
OBJECTS = {
    "11": {"name": "dog", "x": 8, "y": 16, "w": 24, "h": 24},
    "12": {"name": "ball", "x": 44, "y": 30, "w": 10, "h": 10},
    "13": {"name": "ball", "x": 30, "y": 30, "w": 10, "h": 10},
}


def test_gqa_from_its_own_predictions(folder: Path) -> None:
    data, stored = folder / "testdev_balanced_questions.json", folder / "predictions.json"
    data.write_text(json.dumps(QUESTIONS))
    said = {"01": "The ball", "02": "Yes.", "03": "No"}
    stored.write_text(json.dumps([{"questionId": id, "prediction": text} for id, text in said.items()]))
    values = run("gqa", folder, data, stored)
    assert values["metrics"]["accuracy"] == pytest.approx(2 / 3)
    assert {name: one["score"] for name, one in values["groups"]["type"].items()} == {"query": 0.0, "verify": 1.0}
    assert len(values["published"]) == 2


def test_objects_of_a_gqa_question_are_regions(folder: Path) -> None:
    data, graphs = folder / "val.json", folder / "graphs.json"
    data.write_text(json.dumps(QUESTIONS))
    graphs.write_text(json.dumps({"1": {"objects": OBJECTS}}))
    settings = {"scene_graphs": str(graphs), "suffix": ""}
    task = TASKS.require("gqa")(TaskOptions(data, str(folder), settings))
    first, second = task.load()
    assert first.question == "What is to the right of the dog <region>?"
    assert second.question == "Is the brown dog <region> near the balls <region> <region>?"
    assert [region.points[0] for region in second.regions()] == [(8, 16), (44, 30), (30, 30)]
    assert task.left_out == {"a question whose objects have no box": 1}


def test_vstar_mixes_its_options(folder: Path) -> None:
    options = ["The sign is red.", "The sign is blue.", "The sign is green."]
    for kind, name in (("direct_attributes", "a"), ("direct_attributes", "b"), ("relative_position", "c")):
        (folder / kind).mkdir(exist_ok=True)
        Image.new("RGB", (64, 48)).save(folder / kind / f"{name}.jpg")
        item = {"target_object": ["sign"], "bbox": [[40, 4, 20, 12]], "question": "What colour?", "options": options}
        (folder / kind / f"{name}.json").write_text(json.dumps(item))
    task = TASKS.require("vstar")(TaskOptions(folder, str(folder)))
    samples = list(task.load())
    for sample in samples:
        line = next(line for line in sample.question.splitlines() if line.startswith(f"{sample.reference}. "))
        assert line.endswith(options[0])
    assert len({sample.reference for sample in samples}) > 1
    stored = [{"id": one.id, "answer": f"({one.reference})" if one.id.endswith("a") else "A or B"} for one in samples]
    values = run("vstar", folder, folder, lines(folder / "a.jsonl", stored))
    assert values["metrics"]["accuracy"] == pytest.approx(1 / 3)
    assert values["groups"]["kind"]["direct_attributes"] == {"score": 0.5, "samples": 2}
    shown = list(TASKS.require("vstar")(TaskOptions(folder, str(folder), {"region": "yes"})).load())
    assert shown[0].question.startswith("<region> What colour?")
    with pytest.raises(ValueError, match="give V\\*Bench's folder"):
        list(TASKS.require("vstar")(TaskOptions(folder / "direct_attributes", str(folder))).load())


def blink_file(path: Path, answers: list[str], task: str = "Depth") -> Path:
    """One question of BLINK for each answer, on two images."""
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (0, 200, 0)).save(stream, "PNG")
    image = {"bytes": stream.getvalue(), "path": "x.png"}
    rows = [
        {"idx": f"val_{task}_{number}", "question": "Which is closer?", "sub_task": task, "image_1": image}
        | {
            "image_2": image,
            "image_3": None,
            "image_4": None,
            "choices": ["A is closer", "B is closer"],
            "answer": answer,
        }
        | {"prompt": "Which is closer?\n(A) A is closer\n(B) B is closer"}
        for number, answer in enumerate(answers, 1)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


def test_blink_is_the_mean_of_its_tasks(folder: Path) -> None:
    data = folder / "blink"
    blink_file(data / "Depth" / "val-00000-of-00001.parquet", ["(A)", "(B)", "(A)"])
    blink_file(data / "Counting" / "val-00000-of-00001.parquet", ["(B)", "hidden"], "Counting")
    blink_file(data / "Counting" / "test-00000-of-00001.parquet", ["hidden"], "Counting")
    said = {"val_Depth_1": "A is closer", "val_Depth_2": "(B) B is closer", "val_Depth_3": "B", "val_Counting_1": "b"}
    stored = lines(folder / "a.jsonl", [{"id": id, "answer": text} for id, text in said.items()])
    values = run("blink", folder, data, stored)
    assert values["metrics"] == pytest.approx({"mean of tasks": (2 / 3 + 0) / 2, "accuracy": 2 / 4})
    assert values["left_out"] == {"its answer is not published": 1}
    samples = list(TASKS.require("blink")(TaskOptions(data, str(folder / "unpacked"))).load())
    named = {sample.id: sample for sample in samples}["val_Depth_2"]
    assert [Path(path).name for path in named.images] == ["val_Depth_2_1.png", "val_Depth_2_2.png"]
    assert all(Image.open(path).size == (8, 6) for path in named.images)
    assert named.question.startswith("Which is closer?\n(A) A is closer")
    with pytest.raises(ValueError, match=r"has no dev-\*\.parquet"):
        list(TASKS.require("blink")(TaskOptions(data, str(folder), {"split": "dev"})).load())
    with pytest.raises(ValueError, match="is no Parquet file"):
        list(TASKS.require("blink")(TaskOptions(stored, str(folder))).load())


@pytest.mark.parametrize("checkpoint", ["transformers"], indirect=True)
def test_a_model_answers_on_several_images(checkpoint: Path, evaluate: Any, folder: Path) -> None:
    data = blink_file(folder / "val-0.parquet", ["(A)", "(B)"])
    options = ("--model", checkpoint, "--max-new-tokens", 2, "--image-folder", folder)
    assert evaluate(*options, task="blink", data=data)["samples"] == 2


@pytest.mark.parametrize(
    ("answer", "want"),
    [
        ("B", "B"),
        ("(B) A cat", "B"),
        ("B. A cat", "B"),
        ("The answer is C.", "C"),
        ("A, A", "A"),
        ("A cat, B.", "B"),
        ("A cat", None),
        ("It is far. A red cat.", None),
        ("A is closer", "A"),
        ("I say A, not B", None),
        ("E. x", None),
        ("Cat", None),
        ("b", None),
    ],
)
def test_one_letter(answer: str, want: str | None) -> None:
    assert only_letter(answer, "ABCD") == want


def test_a_choice_word_for_word_is_its_letter() -> None:
    choices = {"A": "B is closer", "B": "A is closer", "C": "Neither", "D": "neither"}
    assert chosen_letter("A is closer.", choices) == "B"
    assert chosen_letter("B is closer.", choices) == "A"
    assert chosen_letter("B", choices) == "B"
    assert chosen_letter("neither", choices) is None
    assert chosen_letter("", choices) is None
