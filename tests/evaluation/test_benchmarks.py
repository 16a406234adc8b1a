"""Benchmarks from answers that are known: each protocol's own oddities, and published numbers from stored answers."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from pvit_ext.config import RegionConfig
from pvit_ext.evaluation.answering import query_for
from pvit_ext.evaluation.task import TASKS, TaskOptions
from pvit_ext.tokens.query import Query

DATA = os.environ.get("PVIT_EXT_DATA")
SIZES = {"101.jpg": (64, 48), "102.jpg": (48, 64), "103.jpg": (80, 40)}
REC = [
    ("101.jpg", "brown dog", [8, 16, 32, 40], "[0.125,0.333,0.500,0.833]"),
    ("102.jpg", "yellow cup", [30, 40, 40, 52], "<box>(625,625),(833,812)</box>"),
    ("102.jpg", "upper cup", [34, 10, 44, 22], "It is [0.6, 0.6, 0.9, 0.9]."),
    ("101.jpg", "sign", [40, 4, 60, 16], "I cannot see it."),
    ("101.jpg", "ball", [44, 30, 54, 40], "[0.84375, 0.8333, 0.6875, 0.625]"),
    ("103.jpg", "boat", [10, 12, 50, 34], "[0.125, 0.3, 0.375, 0.85]"),
]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name, size in SIZES.items():
        Image.new("RGB", size).save(tmp_path / name)
    return tmp_path


def run(task: str, folder: Path, data: Path, answers: Path, *settings: str) -> dict[str, Any]:
    from pvit_ext import cli

    words = ["--data", data, "--image-folder", folder, "--out", folder / "out", "--answers", answers]
    chosen = [word for one in settings for word in ("--set", one)]
    assert cli.main(["--traceback", "eval", task, *map(str, words), *chosen]) == 0
    found: dict[str, Any] = json.loads((folder / "out" / "metrics.json").read_text())
    return found


def lines(path: Path, values: Any) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def answered(path: Path, texts: Any) -> Path:
    return lines(path, ({"id": number, "answer": text} for number, text in enumerate(texts)))


def test_rec_counts_the_first_box_at_half(images: Path) -> None:
    data = lines(images / "rec.jsonl", ({"image": i, "sent": s, "bbox": b} for i, s, b, _ in REC))
    answers = answered(images / "answers.jsonl", (answer for *_, answer in REC))
    values = run("grounding", images, data, answers)
    assert values["metrics"]["accuracy@0.5"] == 3 / 6
    assert values["metrics"]["mean IoU"] == pytest.approx((0.998668 + 0.995738 + 0.5) / 6, abs=1e-5)
    assert values["metrics"]["answers without a box"] == 1 / 6
    assert values["groups"]["size of region"]["small"]["samples"] == 6
    assert run("grounding", images, data, answers, "iou=gt")["metrics"]["accuracy@0.5"] == 2 / 6
    assert run("grounding", images, data, answers, "scale=fraction")["metrics"]["accuracy@0.5"] == 2 / 6
    page = (images / "out" / "report.html").read_text()
    assert page.count("<img") == page.count("<figure>") > 6
    boxes = [json.loads(line) for line in (images / "out" / "boxes.jsonl").read_text().splitlines()]
    assert [one["phrase"] for one in boxes] == [sent for _, sent, *_ in REC]
    assert boxes[0]["box"] == pytest.approx([8, 15.984, 32, 39.984])
    assert boxes[0]["true_box"] == [8, 16, 32, 40]
    assert boxes[3]["box"] is None
    assert boxes[3]["iou"] == 0


def test_a_file_of_phrases_may_not_be_empty(images: Path) -> None:
    with pytest.raises(ValueError, match="holds no sample of grounding: it is empty"):
        run("grounding", images, lines(images / "rec.jsonl", []), answered(images / "answers.jsonl", ["x"]))


def test_without_an_image_the_size_is_unknown_and_said_to_be(images: Path) -> None:
    choice = {"bbox": [8, 16, 32, 40], "name": "dog", "synonyms": [], "neg_class": "cat"}
    data = lines(images / "roc.jsonl", [{**choice, "image_path": name} for name in ("101.jpg", "not.jpg")])
    values = run("lvis-roc", images, data, answered(images / "answers.jsonl", ["a dog", "a dog"]))
    assert values["groups"]["size of region"]["small"]["samples"] == 1
    assert values["run"]["regions of unknown size"].startswith("of 1 samples: roc.jsonl line 2: ")


GAR = {"question": "What is <Prompt0>?", "choices": ["A. x"], "answer": "A", "type": "t", "image": "1", "mask_rles": []}
INSTANCES: dict[str, Any] = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "dog"}]}
INSTANCES["annotations"] = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}]


@pytest.mark.parametrize(
    ("task", "data", "stored", "said"),
    [
        ("gar-bench-vqa", [GAR], [GAR], "item 0 has no model_output"),
        ("gqa", {}, [{"questionId": "7"}], "question 7 has no prediction"),
        ("region-classification", INSTANCES, [{"category_id": 1, "image_id": 1}], "detection 0 has not got .*'bbox'"),
        ("region-classification", INSTANCES, [{"category_id": 5}], "detection 0 has not got"),
        ("pope", {"label": "yes", "text": "a dog?"}, None, "expected image, text and label"),
    ],
)
def test_what_a_file_lacks_is_named(tmp_path: Path, task: str, data: Any, stored: Any, said: str) -> None:
    (tmp_path / "data.json").write_text(json.dumps(data))
    (tmp_path / "answers.json").write_text(json.dumps(stored))
    made = TASKS.require(task)(TaskOptions(tmp_path / "data.json", str(tmp_path)))
    with pytest.raises(ValueError, match=said):
        list(made.load()) if stored is None else made.stored_answers(tmp_path / "answers.json")


def test_spans_of_gqa_that_end_at_one_word_are_all_regions() -> None:
    from pvit_ext.evaluation.tasks.gqa import _with_regions

    objects = {str(n): {"x": n, "y": 0, "w": n, "h": 5} for n in range(3)}
    text, regions = _with_regions("Is the red dog big?", {"2:4": "1", "3": "2,0,9", "1:4": "1"}, objects)
    assert text == "Is the red dog <region> <region> big?"  # the box 0 has no area, and 9 is no object
    assert len(regions) == 2


def test_a_prompt_of_grounding_holds_the_phrase(images: Path) -> None:
    data = lines(images / "rec.jsonl", [{"image": "101.jpg", "sent": "dog", "bbox": [8, 16, 32, 40]}])
    task = TASKS.require("grounding")(TaskOptions(data, str(images), {"question": "Find {phrase}!"}))
    assert [sample.question for sample in task.load()] == ["Find dog!"]
    with pytest.raises(ValueError, match=r"has no \{phrase\}"):
        list(TASKS.require("grounding")(TaskOptions(data, str(images), {"question": "Find it"})).load())
    data.write_text('{"image": "101.jpg", "sent": "dog", "bbox": [1, 2, 3]}\n')
    with pytest.raises(ValueError, match=r"rec.jsonl line 1: expected image, sent and bbox"):
        list(TASKS.require("grounding")(TaskOptions(data, str(images))).load())


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ([0.1, 0.2, 0.5, 0.6], "lies in the top-left pixel"),
        ([32, 40, 8, 16], "is inverted"),
        ([8, 16, 8, 40], "is empty"),
        ([800, 16, 820, 40], "lies outside its image"),
        ([8, 16, "x", 40], "expected image, sent and bbox"),
    ],
)
def test_a_true_box_that_is_none_is_refused(images: Path, box: list[Any], said: str) -> None:
    """No answer can meet it: the accuracy would be that of nothing."""
    good = {"image": "101.jpg", "sent": "dog", "bbox": [8, 16, 32, 40]}
    data = lines(images / "rec.jsonl", [good, {**good, "bbox": box}])
    with pytest.raises(ValueError, match=rf"rec.jsonl line 2: .*{said}"):
        list(TASKS.require("grounding")(TaskOptions(data, str(images))).load())


def test_grounding_is_of_the_task_region_for_a_model_that_has_it(images: Path) -> None:
    data = lines(images / "rec.jsonl", [{"image": "101.jpg", "sent": "dog", "bbox": [8, 16, 32, 40]}])
    asked = {}
    for name in ("region", "box", ""):
        settings = {} if name == "region" else {"lion_task": name}
        (sample,) = TASKS.require("grounding")(TaskOptions(data, str(images), settings)).load()
        for tasks in ("", "region,image", "box,image"):
            config = RegionConfig(lion_adapters=4, lion_tasks=tasks) if tasks else RegionConfig()
            query = query_for(
                SimpleNamespace(region_config=config), Query(None, "", task=sample.adapters), sample.adapters_if_known
            )
            asked[name, tasks] = query.task
    assert asked["region", "region,image"] == "region"
    assert [asked["region", tasks] for tasks in ("", "box,image")] == [None, None]
    assert {asked["box", tasks] for tasks in ("", "region,image", "box,image")} == {"box"}, "a wrong one is an error"
    assert {asked["", tasks] for tasks in ("", "region,image", "box,image")} == {None}


def test_grounding_reads_a_converted_file(images: Path) -> None:
    """Masks with their box, boxes, and objects that are no region of the record; not the image's second record."""
    mask = {"mask": {"size": [48, 64], "counts": [100, 20, 2952]}}
    things: list[dict[str, Any]] = [
        {"region": 0, "captions": ["dog", "brown dog"]},
        {"region": 1, "box": [2, 4, 3, 24], "captions": ["stick"]},
        {"region": [1, 2, 30, 40], "captions": ["grass"]},
        {"region": mask, "captions": ["pole"]},
        {"region": [1, 2, 30, 41], "label": "sky"},
    ]
    talk = [{"from": "human", "value": "<image>\nWhat are <region> and <region>?"}, {"from": "gpt", "value": "dogs"}]
    record = {"id": "1", "image": "101.jpg", "conversations": talk, "regions": [[8, 16, 32, 40], mask]}
    source = {"format": "x", "item": "1", "size": [64, 48], "objects": things}
    data = lines(images / "converted.jsonl", [record | {"source": source}, record])
    task = TASKS.require("grounding")(TaskOptions(data, str(images)))
    found = {sample.reference: tuple(sample.extra["box"]) for sample in task.load()}
    want = {"dog": (8, 16, 32, 40), "brown dog": (8, 16, 32, 40), "stick": (2, 4, 3, 24), "grass": (1, 2, 30, 40)}
    assert found == want | {"pole": (2, 4, 3, 24)}
    assert task.left_out == {"an object without a caption": 1}
    with pytest.raises(ValueError, match="has no objects under 'source'"):
        list(TASKS.require("grounding")(TaskOptions(lines(data, [record]), str(images))).load())


def test_pope_reads_answers_as_its_script_does(images: Path) -> None:
    said = ["Yes, there is a dog.", "There is no boat.", "There are two. No doubt.", "Yes", "I see nothing."]
    labels = ["yes", "no", "yes", "no", "no"]
    questions = ({"image": "101.jpg", "text": "Is it there?", "label": label} for label in labels)
    data = lines(images / "coco_pope_random.json", questions)
    values = run("pope", images, data, answered(images / "a.jsonl", said))
    want = {"accuracy": 0.6, "precision": 0.5, "recall": 1.0, "F1": 2 / 3, "share of yes": 0.8}
    assert values["metrics"] == pytest.approx(want)
    assert values["confusion"]["counts"] == [[2, 0, 0], [2, 1, 0]]
    assert [one["value"] for one in values["published"]] == [0.873]
    assert len(values["notes"]) == 1
    values = run("pope", images, data, answered(images / "a.jsonl", ["", "no", " ", "", "no"]))
    assert values["notes"][1].startswith("3 answers are empty")
    assert "read as yes, 2 of them count as right" in values["notes"][1]


def gar_items() -> list[dict[str, Any]]:
    mask = {"size": [48, 64], "counts": [100, 20, 2952]}
    items = [
        ("What is the color of <Prompt0>?", ["A. brown", "B. red"], "A", "color", 1),
        ("Is <Prompt1> above <Prompt0>?", ["A. Yes", "B. No"], "A", "relation", 2),
        ("Which one is left?", ["A. <Prompt1>", "B. <Prompt0>"], "B", "ordering", 2),
    ]
    return [
        {"image": "101.jpg", "question": q, "choices": c, "answer": a, "type": t, "mask_rles": [mask] * n}
        for q, c, a, t, n in items
    ]


def test_gar_bench_compares_the_whole_output(images: Path) -> None:
    data, stored = images / "vqa.json", images / "out.json"
    data.write_text(json.dumps(gar_items()))
    said = ["a", "A. Yes", "B"]
    stored.write_text(json.dumps([{**one, "model_output": s} for one, s in zip(gar_items(), said, strict=True)]))
    values = run("gar-bench-vqa", images, data, stored)
    assert values["metrics"]["accuracy"] == pytest.approx(2 / 3)
    assert {name: one["score"] for name, one in values["groups"]["type"].items()} == {
        "color": 1.0,
        "relation": 0.0,
        "ordering": 1.0,
    }
    # of "a", "A. Yes" and "B", the last two hold just one capital letter of the four
    assert run("gar-bench-vqa", images, data, stored, "match=letter")["metrics"]["accuracy"] == pytest.approx(2 / 3)
    page = (images / "out" / "report.html").read_text()
    assert "Which one is left?\nA. [1]\nB. [2]" in page
    samples = list(TASKS.require("gar-bench-vqa")(TaskOptions(data, str(images))).load())
    assert samples[2].question.startswith("Which one is left?\nA. <region>\nB. <region>\nAnswer")
    assert [len(sample.regions()) for sample in samples] == [1, 2, 2]
    again = replace(samples[1], question="<region> <region> <region>", specs=samples[1].specs + samples[1].specs[:1])
    assert again.numbers() == [1, 2, 1]
    assert (len(again.regions()), len(again.different_regions())) == (3, 2)
    stored.write_text(json.dumps([{**one, "question": "other", "model_output": ""} for one in gar_items()]))
    with pytest.raises(ValueError, match="answers other questions"):
        run("gar-bench-vqa", images, data, stored)


@pytest.mark.skipif(DATA is None, reason="PVIT_EXT_DATA names no folder of real data")
@pytest.mark.parametrize(("model", "right"), [("gar_1b", 203), ("gar_8b", 245)])
def test_published_numbers_from_gars_stored_answers(model: str, right: int, tmp_path: Path) -> None:
    folder = Path(str(DATA), "gar_bench")
    task = TASKS.require("gar-bench-vqa")(TaskOptions(folder / "GAR-Bench-VQA.json", str(folder)))
    stored = task.stored_answers(folder / "model_outputs" / f"{model}_vqa.json")
    assert stored is not None
    scores = [task.parse(sample, stored[sample.id]).score for sample in task.load()]
    assert (sum(scores), len(scores)) == (right, 424)


@pytest.mark.parametrize("checkpoint", ["transformers"], indirect=True)
def test_a_model_answers_them(checkpoint: Path, evaluate: Any, images: Path) -> None:
    (images / "vqa.json").write_text(json.dumps(gar_items()))
    lines(images / "rec.jsonl", ({"image": i, "sent": s, "bbox": b} for i, s, b, _ in REC))
    lines(images / "pope.json", [{"image": "101.jpg", "text": "Is a dog there?", "label": "no"}])
    options = ("--model", checkpoint, "--max-new-tokens", 2, "--image-folder", images)
    for task, file, count in (
        ("gar-bench-vqa", "vqa.json", 3),
        ("grounding", "rec.jsonl", 6),
        ("pope", "pope.json", 1),
    ):
        values = evaluate(*options, task=task, data=images / file, out=f"of {task}")
        assert values["samples"] == count
