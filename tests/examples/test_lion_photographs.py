"""``python -m examples.lion.photographs``: one data set for all arms, tags as good as their name says, questions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from examples.lion.photographs.arms import ARMS, CLAIMS
from examples.lion.photographs.asking import held_out_questions
from examples.lion.photographs.coco import class_names, lay_out
from examples.lion.photographs.experiment import TagExperiment
from examples.lion.photographs.settings import Settings
from examples.lion.photographs.tagging import Tagging, true_tags
from examples.lion.tasks import IMAGE, REGION
from examples.photographs.data import LEAST, Photograph, Wording

NAMES = ["cat", "dog", "traffic light", "car"]


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
    (data / "object_detection" / "config.yaml").write_text(
        yaml.safe_dump({"path": ".", "names": dict(enumerate(NAMES))})
    )
    (tmp_path / "tagger.onnx").write_bytes(b"a network")
    return lay_out(data, tmp_path / "laid")


def test_the_layout_is_read_and_names_its_classes(root: Path, tmp_path: Path) -> None:
    assert class_names(root) == NAMES
    with pytest.raises(FileNotFoundError, match="is missing: --data takes a folder"):
        lay_out(tmp_path / "nothing", tmp_path / "other")


def test_a_layout_of_other_data_is_not_taken_for_this_one(root: Path, tmp_path: Path) -> None:
    assert lay_out(tmp_path / "coco256", root) == root
    shutil.copytree(tmp_path / "coco256", tmp_path / "other")
    with pytest.raises(ValueError, match=r"laid was made of .*coco256 .*, --data is .*other: start over with --fresh"):
        lay_out(tmp_path / "other", root)
    config = tmp_path / "coco256" / "object_detection" / "config.yaml"
    config.write_text(config.read_text().replace("cat", "tiger"))
    with pytest.raises(ValueError, match="as it was then"):
        lay_out(tmp_path / "coco256", root)


def test_tags_and_results_are_of_one_network(root: Path, tmp_path: Path) -> None:
    """Another one in a file of the same name."""

    def experiment() -> TagExperiment:
        return TagExperiment(root, tmp_path / "out", Settings(), 0, tmp_path / "tagger.onnx")

    before = experiment()
    assert (before.described, before.tags_file) == (experiment().described, experiment().tags_file)
    assert before.described["photographs"] == str((tmp_path / "coco256").resolve())
    described, file = before.described, before.tags_file
    (tmp_path / "tagger.onnx").write_bytes(b"another network")
    assert experiment().described != described
    assert experiment().tags_file != file


def with_records(experiment: TagExperiment) -> TagExperiment:
    """Its records are written; its tagger says of every photograph that it shows a car."""
    experiment._convert()
    tags = {f"images/{part}2017/{n:03d}.jpg": ["car"] for part in ("train", "val") for n in range(LEAST + 1)}
    experiment.tags_file.write_text(json.dumps(tags))
    experiment._write_records()
    return experiment


def test_arms_see_the_same_conversations_with_tags_or_without(root: Path, tmp_path: Path) -> None:
    settings = Settings(batch=4, tags_steps=2, align_steps=2, finetune_steps=6)
    experiment = with_records(TagExperiment(root, tmp_path / "out", settings, 0, tmp_path / "tagger.onnx"))
    plain, tagged = (_read(experiment._records(name)) for name in ("untagged", "tagged"))
    assert len(plain) == 24
    assert [{key: value for key, value in one.items() if key != "tags"} for one in tagged] == plain
    assert all(one["tags"] == ["car"] for one in tagged)
    assert sum("regions" in one for one in plain) == 12
    asked = experiment.questions_asked
    assert len([one for _, one in asked if one.task == IMAGE]) == LEAST + 1
    assert {one.answer for _, one in asked if one.task == REGION} == {"cat"}  # a dog is rare
    assert experiment.quality == {"photographs": LEAST + 1, "precision": 0.0, "recall": 0.0}


def test_settings_are_chosen_on_photographs_that_nothing_trains_on(root: Path, tmp_path: Path) -> None:
    settings = Settings(batch=4, tags_steps=2, align_steps=2, finetune_steps=20)
    experiment = with_records(
        TagExperiment(root, tmp_path / "out", settings, 0, tmp_path / "tagger.onnx", develop=True)
    )
    seen = {one["image"] for name in ("tags", "regions_align", "tagged") for one in _read(experiment._records(name))}
    asked = {image for image, _ in experiment.questions_asked}
    assert asked
    assert not asked & seen
    assert all(image.startswith("images/train2017/") for image in asked)


def test_tags_are_as_good_as_their_name_says() -> None:
    shown = [Photograph("a.jpg", ((0, 0, 9, 9),) * 3, ("cat", "dog", "cat"))]
    tagging = Tagging(true_tags(shown), {"a.jpg": ["cat", "car"]}, NAMES)
    found = {quality: tagging.of("a.jpg", quality) for quality in ARMS["hinted_tags"].qualities}
    assert {quality: sorted(tags) for quality, tags in found.items()} == {
        "none": [], "true": ["cat", "dog"], "real": ["car", "cat"], "wrong": ["car", "traffic light"]
    }  # fmt: skip
    assert found["wrong"] == tagging.of("a.jpg", "wrong")
    assert tagging.quality(["a.jpg"]) == {"photographs": 1, "precision": 0.5, "recall": 0.5}


def test_few_boxes_of_a_photograph_are_asked_about_and_always_the_same() -> None:
    shown = [Photograph("a.jpg", tuple((0.0, 0.0, 9.0, n + 1.0) for n in range(5)), ("cat",) * 5)]
    first, second = (held_out_questions(shown, ["cat"], Wording("object", "cat"), 2) for _ in range(2))
    assert first == second
    assert [one.task for _, one in first] == [IMAGE, REGION, REGION]


def test_claims_are_of_arms_that_are_there() -> None:
    assert {name for claim in CLAIMS for name, _ in (claim.better, claim.worse)} == {*ARMS}


def _read(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]
