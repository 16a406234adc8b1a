"""``pvit-ext data convert --task`` on the formats' fixtures and on real annotations."""

import json

import pytest

from pvit_ext import cli
from pvit_ext.data.check import validate
from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.run import Job, convert
from pvit_ext.data.tasks.base import TASKS, Task, Turn
from tests.data.convert.truth import FIXTURES, converted

SOURCES = [
    ("coco", "coco/annotations/instances_val2017.json", "coco"),
    ("voc", "bccd", "bccd"),
    ("yolo", "aquarium", "aquarium"),
    ("paco", "paco/paco_lvis_v1_val.json", "lvis"),
    ("label_studio", "label_studio/project-1-at-2024-01-01.json", "label_studio"),
    ("visual_genome", "visual_genome", "visual_genome"),
    ("refcoco", "refcoco/refcoco", "refcoco/images"),
    ("flickr30k", "flickr30k_entities", "flickr30k_entities"),
]


@pytest.mark.parametrize(("name", "source", "folder"), SOURCES)
def test_all_tasks_give_records_that_train(tmp_path, name, source, folder):
    records, report = converted(tmp_path, name, source, folder, tasks=["all"], negatives=True, box_jitter=0.02)
    assert validate(tmp_path / "out.jsonl", FIXTURES / folder, check_images=True) == []
    assert len({one["id"] for one in records}) == len(records)
    found = {one["task"] for one in records}
    assert found == {task for task in TASKS.names() if report.counts[f"records of {task}"]}
    assert len(found) >= 3
    for image in {one["image"] for one in records}:
        assert sum("source" in one for one in records if one["image"] == image) == 1


def test_counting_leaves_out_images_with_crowds_and_data_of_sentences(tmp_path):
    records, report = converted(tmp_path, "coco", SOURCES[0][1], "coco", tasks=["counting"])
    assert {one["image"] for one in records} == {"val2017/000000000101.jpg", "val2017/000000000102.jpg"}  # 103 has one
    assert report.counts["images that give no question for counting"] == 1
    assert report.dropped["no_question"] == 2
    with pytest.raises(
        ValueError, match=r"counting asks nothing: it needs a closed list .* has \d+ objects.*no closed list"
    ):
        converted(tmp_path, "refcoco", "refcoco/refcoco", "refcoco/images", tasks=["counting"])


def test_a_source_that_cannot_feed_a_task_says_what_it_has(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"attribute asks nothing: it needs objects with attributes\. \S+ has \d+ objects, \d+ objects with label",
    ):
        converted(tmp_path, "coco", SOURCES[0][1], "coco", tasks=["identification", "attribute"])
    assert not list(tmp_path.iterdir())
    _, report = converted(tmp_path, "coco", SOURCES[0][1], "coco", tasks=["all"])
    assert "ask nothing: attribute, description" in report.remarks[-1]


def test_a_source_without_images(tmp_path):
    with pytest.raises(SourceError, match="gives no record as coco"):
        convert(Job("coco", FIXTURES / SOURCES[0][1], tmp_path, tmp_path / "out.jsonl", tasks=["all"]))


def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    source = FIXTURES / SOURCES[0][1]
    written = []
    for workers in (1, 2):
        out = tmp_path / f"{workers}.jsonl"
        convert(
            Job("coco", source, FIXTURES / "coco", out, tasks=["all"], negatives=True, box_jitter=0.1, workers=workers)
        )
        written.append(out.read_bytes())
    assert written[0] == written[1]


class Shape(Task):
    name = "shape"
    about = "a task of another package"
    needs = "objects"

    def turns(self, image, context):
        for place in range(len(image.objects)):
            yield Turn("What shape has <region>?", "Some shape.", (place,))


def test_a_task_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "shape", Shape)
    records, _ = converted(tmp_path, "coco", SOURCES[0][1], "coco", tasks=["shape"])
    assert {one["conversations"][1]["value"] for one in records} == {"Some shape."}
    assert "shape" in TASKS.names()


def test_command(tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    words = [
        "data",
        "convert",
        "coco",
        str(FIXTURES / SOURCES[0][1]),
        "--image-folder",
        str(FIXTURES / "coco"),
        "--out",
        str(out),
    ]
    assert (
        cli.main(
            [*words, "--task", "grounding,counting", "--task", "discrimination", "--box-text", "pixels", "--negatives"]
        )
        == 0
    )
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert {one["task"] for one in records} >= {"grounding", "counting"}
    assert all("pixels" in one["box_text"] for one in records if one["task"] == "grounding")
    assert "records of counting" in capsys.readouterr().out
    for more, message in (
        (["--task", "counts"], "unknown task 'counts'; known: "),
        (["--box-text", "percent"], "--box-text is one of fractions, thousandths, pixels"),
        (["--box-jitter", "0.7"], "from 0 to below 0.5"),
        (["--turns", "-1"], "--turns is 0 or more, got -1"),
        (["--task", "relation"], "relation asks nothing"),
    ):
        assert cli.main([*words, *more]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["data", "convert", "--tasks"]) == 0
    assert "counting         how many objects" in capsys.readouterr().out
