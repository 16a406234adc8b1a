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
from pvit_ext.data.tags.run import TagJob, tag_records
from pvit_ext.data.tags.taggers import TaggerError, load_tagger
from tests.data.records import record, write
from tests.data.tags.tiny_onnx import COLOURS, write_detector, write_op


def colour(image: Image.Image) -> list[str]:
    return ["red"] if image.getpixel((0, 0)) == (255, 0, 0) else []


def counted(image: Image.Image) -> list[str]:
    found = colour(image)
    with open(os.environ["ASKED"], "a") as file:
        file.write(f"{os.getpid()} {'red' if found else 'black'}\n")
    return found


def nothing(image: Image.Image) -> None:
    return None


def fails(image: Image.Image) -> list[str]:
    raise KeyError("x")


def of_two(image: Image.Image, more: int) -> list[str]:
    return []


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


@pytest.mark.parametrize(
    ("op", "shape", "out", "kind", "said"),
    [
        (
            "Relu",
            (1, 1, 4, 4),
            (1, 1, 4, 4),
            1,
            r"takes tensor\(float\) \[1, 1, 4, 4\], a detector here takes one image",
        ),
        ("Relu", (1, 3, 4, 4), (1, 3, 4, 4), 10, r"takes tensor\(float16\) \[1, 3, 4, 4\]"),
        ("Relu", (2, 3, 4, 4), (2, 3, 4, 4), 1, r"cannot take an image: InvalidArgument"),
        ("Flatten", (1, 3, 4, 4), (1, 48), 1, r"gives \(1, 48\), with 3 names it would be \(1, 8"),
        ("Relu", (1, 3, 4, 4), (1, 3, 4, 4), 1, r"gives \(1, 3, 4, 4\), with 3 names it would be \(1, 8"),
        ("Shape", (1, 3, 4, 4), (4,), 1, r"no ONNX model that onnxruntime reads"),
    ],
)
def test_a_model_that_is_no_detector_of_these_names_is_said_at_load(
    op: str, shape: tuple[int, ...], out: tuple[int, ...], kind: int, said: str, tmp_path: Path, names: str
) -> None:
    path = write_op(tmp_path / "m.onnx", op, shape, out, kind)
    with pytest.raises(ValueError, match=rf"m\.onnx.* {said}"):
        load_tagger(str(path), names)


def test_any_callable_is_a_tagger() -> None:
    tagger = load_tagger("builtins:sorted")
    assert tagger.key == ("builtins:sorted", None)
    with pytest.raises(TaggerError, match=r"builtins:sorted on a\.png: tags\[0\] is a text, got 0"):
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
        ("raises_here:tag", {}, "tagger raises_here:tag: its module cannot be imported: RuntimeError: no card"),
        (
            "no_python:tag",
            {},
            "tagger no_python:tag: its module cannot be imported: SyntaxError: .*no_python.py, line 1",
        ),
        ("twice.json", {}, r"twice.json names 'a\.png' twice: keep one"),
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
    (images / "twice.json").write_text('{"a.png": ["red"], "b.png": [], "a.png": ["blue"]}')
    (images / "raises_here.py").write_text("raise RuntimeError('no card')")
    (images / "no_python.py").write_text("def (")
    monkeypatch.syspath_prepend(str(images))
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


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_function_is_asked_once_for_an_image_in_each_worker(
    images: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(run, "_BATCH", 2)
    monkeypatch.setenv("ASKED", str(images / "asked.txt"))
    path = write(images, [record(number, image=("red.png", "black.png")[number % 2]) for number in range(12)])
    tag_records(TagJob(path, images / "out.jsonl", load_tagger(f"{HERE}:counted"), images, workers=workers))
    assert [one["tags"] for one in lines(images / "out.jsonl")] == [["red"], []] * 6
    asked = (images / "asked.txt").read_text().splitlines()
    assert len(asked) == len({*asked}), "no process twice for one image"
    assert {one.split()[1] for one in asked} == {"red", "black"}
    assert len({one.split()[0] for one in asked}) <= workers


@pytest.mark.parametrize(
    ("source", "folder", "said"),
    [
        (f"{HERE}:colour", None, "looks at the images: give --image-folder"),
        (f"{HERE}:nothing", "", "knows none of the images of 3 records, such as red.png: are"),
        (
            f"{HERE}:no_list",
            "",
            r"^tagger .*no_list on red.png: tags is a list of texts, such as \S+ \S+, got 'red, green'$",
        ),
        (f"{HERE}:fails", "", r"^tagger .*:fails on red.png: KeyError: 'x'$"),
        (f"{HERE}:of_two", "", r"^tagger .*:of_two on red.png: TypeError: of_two\(\) missing 1 .*'more'$"),
        ("builtins:len", "", r"^tagger builtins:len on red.png: TypeError: "),
        ("builtins:NotImplementedError", "", "NotImplementedError on red.png: tags is a list of texts"),
        (f"{HERE}:colour", "absent", "is not there, or is no folder"),
    ],
)
def test_what_cannot_be_tagged_is_said_and_nothing_is_written(
    source: str, folder: str | None, said: str, images: Path
) -> None:
    path = write(images, [record(number, image="red.png") for number in range(3)])
    job = TagJob(path, images / "out.jsonl", load_tagger(source), None if folder is None else images / folder)
    with pytest.raises((ValueError, OSError), match=said):
        tag_records(job)
    assert not list(images.glob("out*"))


@pytest.mark.parametrize(
    ("table", "names", "said"),
    [
        ({"1.png": ["red"]}, ["a/1.png", "b/1.png"], r"a/1\.png, b/1\.png .* '1\.png'"),
        ({"1.png": ["red"]}, ["1.png", "2.png", ["2.png", "b/1.png"]], r"1\.png, b/1\.png .* '1\.png'"),
        ({"1.png": ["red"]}, ["a/1.png", "a/1.png", "./a//1.png"], None),
        ({"1.png": ["red"], "b/1.png": ["blue"]}, ["a/1.png", "b/1.png"], None),
        ({"1.png": "red"}, ["1.png"], r"^tagger .*tags\.json on 1\.png: tags is a list of texts"),
    ],
)
def test_two_images_do_not_share_the_tags_of_one_name(
    table: dict[str, Any], names: list[Any], said: str | None, tmp_path: Path
) -> None:
    turns = {True: {"regions": None, "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]}}
    records = [record(number, image=name, **turns.get(isinstance(name, list), {})) for number, name in enumerate(names)]
    path = write(tmp_path, [*records, record(99, image=7), 5])
    tagger = load_tagger(str(write(tmp_path, json.dumps(table), "tags.json")))
    job = TagJob(path, tmp_path / "out.jsonl", tagger, max_bad_records=2)
    if said is None:
        assert tag_records(job).counts[run.FOUND] == len(names)
        return
    with pytest.raises(ValueError, match=said):
        tag_records(job)
    assert not list(tmp_path.glob("out*"))


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
