"""Taggers, and ``pvit-ext data tags``, which writes what they say into records."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pvit_ext.cli import main
from pvit_ext.data.tags import run
from pvit_ext.data.tags.onnx_detector import OnnxDetector
from pvit_ext.data.tags.run import TagJob, tag_records
from pvit_ext.data.tags.taggers import load_tagger
from tests.data.records import record, write
from tests.data.tags.tiny_onnx import COLOURS, write_detector


def colour(image: Image.Image) -> list[str]:
    return ["red"] if image.getpixel((0, 0)) == (255, 0, 0) else []


def nothing(image: Image.Image) -> None:
    return None


def no_list(image: Image.Image) -> str:
    return "red, green"


HERE = __name__


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("red", "black"):
        Image.new("RGB", (8, 6), name).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture
def names(tmp_path: Path) -> str:
    (tmp_path / "names.txt").write_text("\n".join(COLOURS) + "\n")
    return str(tmp_path / "names.txt")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_detector_gives_the_classes_it_finds(images: Path, names: str) -> None:
    tagger = load_tagger(str(write_detector(images / "d.onnx")), names, 0.5)
    assert tagger.tags("a", lambda: Image.open(images / "red.png")) == ["red"]
    assert tagger.tags("a", lambda: Image.open(images / "black.png")) == []
    assert tagger.tags("a", lambda: Image.new("RGB", (8, 8), (200, 255, 0))) == ["green"]
    wrong = OnnxDetector(images / "d.onnx", ("one", "two"), 0.5)
    with pytest.raises(ValueError, match=r"gives \(1, 8, 4, 4\), with 2 names it would be \(1, 7"):
        wrong(Image.new("RGB", (8, 8)))


def test_any_callable_is_a_tagger() -> None:
    tagger = load_tagger("builtins:sorted")
    assert tagger.key == ("builtins:sorted", None)
    with pytest.raises(ValueError, match=r"builtins:sorted on a\.png: tags\[0\] is a text, got 0"):
        tagger.tags("a.png", lambda: [0, 1])  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("d.onnx", {}, "needs the names of its classes: --names FILE"),
        ("d.onnx", {"threshold": 1.5, "names": "names.txt"}, "--threshold 1.5: a score is 0 to 1"),
        ("d.onnx", {"names": "t.json"}, r"--names t.json: tags\[0\] '\{\}' has no letter"),
        ("names.onnx", {"names": "names.txt"}, "is no ONNX model that onnxruntime reads"),
        ("t.json", {"threshold": 0.5}, "--threshold belong to a detector"),
        ("missing.json", {}, "missing.json is no file"),
        ("list.json", {}, "list.json holds a JSON list, not an object"),
        ("tags.csv", {}, "is none of: a FILE.json"),
        ("no_such_module:tag", {}, "No module named 'no_such_module'"),
        (f"{HERE}:absent", {}, "has no attribute 'absent'"),
        (f"{HERE}:HERE", {}, "not a function of an image"),
    ],
)
def test_what_is_no_tagger_is_said(
    source: str, options: dict[str, Any], said: str, images: Path, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images)
    write_detector(images / "d.onnx")
    (images / "names.onnx").write_text("text")
    (images / "t.json").write_text("{}")
    (images / "list.json").write_text("[]")
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        load_tagger(source, **options)


def test_tags_stand_in_the_records_and_missing_ones_are_counted(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [
        record(0, image="red.png"), record(1, image="black.png"), record(2, image="a/red.png", tags=["old"]),
        record(3, image=["red.png", "black.png"], regions=None,
               conversations=[{"from": "human", "value": "<image><image>?"}, {"from": "gpt", "value": "No."}]),
    ]  # fmt: skip
    (images / "a").mkdir()
    (images / "a" / "red.png").write_bytes((images / "red.png").read_bytes())
    table = write(images, json.dumps({"red.png": ["red", "Red", "a, b"], "a/red.png": [], "x": "bad"}), "t.json")
    out = images / "out.jsonl"
    path = write(images, records)
    assert main(["data", "tags", str(path), "--tagger", str(table), "--out", str(out)]) == 0
    found = lines(out)
    assert [one.get("tags") for one in found] == [["red", "a b"], None, [], None]
    assert [{**one, "tags": 0} for one in found] == [{**one, "tags": 0} for one in records], "nothing else changes"
    said = capsys.readouterr().out
    for line in (
        f"1  {run.FOUND}",
        f"1  {run.NOTHING}",
        f"2  {run.UNKNOWN}",
        f"1  {run.REPLACED}",
        "such as black.png",
    ):
        assert line in said


def test_a_function_is_asked_once_for_an_image_in_any_number_of_workers(images: Path) -> None:
    path = write(images, [record(number, image="red.png") for number in range(3)])
    tag_records(TagJob(path, images / "one.jsonl", load_tagger(f"{HERE}:colour"), images))
    assert [one["tags"] for one in lines(images / "one.jsonl")] == [["red"]] * 3


@pytest.mark.parametrize(
    ("source", "folder", "said"),
    [
        (f"{HERE}:colour", None, "looks at the images: give --image-folder"),
        (f"{HERE}:nothing", "", "knows none of the images of 1 records, such as red.png"),
        (f"{HERE}:no_list", "", r"line 2 \(id '0'\): .*no_list on red.png: tags is a list of texts"),
        (f"{HERE}:colour", "absent", "is not there, or is no folder"),
    ],
)
def test_what_cannot_be_tagged_is_said_and_nothing_is_written(
    source: str, folder: str | None, said: str, images: Path
) -> None:
    path = write(images, [record(image="red.png")])
    job = TagJob(path, images / "out.jsonl", load_tagger(source), None if folder is None else images / folder)
    with pytest.raises((ValueError, OSError), match=said):
        tag_records(job)
    assert not list(images.glob("out*"))


def test_a_bad_record_and_a_broken_image_are_named_or_passed_over(images: Path) -> None:
    (images / "broken.png").write_bytes(b"no image")
    path = write(images, [record(0, image="broken.png"), record(1, image="red.png"), record(2, conversations=[])])
    job = TagJob(path, images / "out.jsonl", load_tagger(f"{HERE}:colour"), images)
    with pytest.raises(ValueError, match=r"2 bad items(.|\n)*cannot read .*broken.png(.|\n)*conversations"):
        tag_records(job)
    report = tag_records(TagJob(path, images / "out.jsonl", job.tagger, images, max_bad_records=2))
    assert report.bad == 2
    assert [one["id"] for one in lines(images / "out.jsonl")] == ["1"]


def test_an_interrupted_run_goes_on_with_the_same_tagger_alone(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_BATCH", 1)
    monkeypatch.setattr("pvit_ext.data.convert.output._EVERY", -1.0)
    path, out = write(images, [record(number, image="red.png") for number in range(6)]), images / "out.jsonl"
    asked: list[int] = []

    def stop_after(count: int) -> Callable[..., run.Tagged]:
        stock = run._Work.__call__

        def call(self: Any, batch: Any) -> run.Tagged:
            if len(asked) == count:
                raise KeyboardInterrupt
            asked.append(1)
            return stock(self, batch)

        return call

    job = TagJob(path, out, load_tagger(f"{HERE}:colour"), images)
    with monkeypatch.context() as patch:
        patch.setattr(run._Work, "__call__", stop_after(3))
        with pytest.raises(KeyboardInterrupt):
            tag_records(job)
    assert not out.exists()
    with monkeypatch.context() as patch:
        patch.setattr(run._Work, "__call__", stop_after(6))
        tag_records(job)
    assert len(asked) == 6
    resumed = out.read_bytes()
    tag_records(TagJob(path, images / "whole.jsonl", job.tagger, images))
    assert resumed == (images / "whole.jsonl").read_bytes()


@pytest.mark.slow
def test_workers_write_the_same_file(images: Path, names: str) -> None:
    path = write(images, [record(number, image=f"{('red', 'black')[number % 2]}.png") for number in range(70)])
    tagger = load_tagger(str(write_detector(images / "d.onnx")), names, 0.5)
    for workers in (1, 2):
        tag_records(TagJob(path, images / f"{workers}.jsonl", tagger, images, workers=workers))
    assert (images / "1.jsonl").read_bytes() == (images / "2.jsonl").read_bytes()
    assert os.path.getsize(images / "1.jsonl") > 0
