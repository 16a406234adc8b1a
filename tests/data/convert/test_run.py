"""A conversion as a whole: workers, resuming, the files it leaves, the command line."""

import json
from pathlib import Path

import pytest
from PIL import Image

from pvit_ext import cli
from pvit_ext.data.convert import output
from pvit_ext.data.convert.base import FORMATS, DataFormat, SourceError
from pvit_ext.data.convert.notes import Reason
from pvit_ext.data.convert.run import Job, Work, convert
from tests.data.convert.jobs import job, many
from tests.data.convert.truth import FIXTURES, converted


class _Stopped(Exception):
    """Stands for whatever ends a process."""


def test_an_interrupted_conversion_goes_on_where_it_stood(tmp_path, monkeypatch):
    source = many(tmp_path / "source", 300)
    convert(job(source, tmp_path / "whole.jsonl"))
    monkeypatch.setattr(output, "_EVERY", 0.0)
    read, calls = Work.__call__, []

    def stopping(self, units):
        calls.append(len(units))
        if len(calls) == 4:
            raise _Stopped
        return read(self, units)

    monkeypatch.setattr(Work, "__call__", stopping)
    with pytest.raises(_Stopped):
        convert(job(source, tmp_path / "out.jsonl"))
    assert not (tmp_path / "out.jsonl").exists()
    with open(tmp_path / "out.jsonl.part", "ab") as stream:
        stream.write(b"half a li")  # written after the last place from which to go on
    report = convert(job(source, tmp_path / "out.jsonl"))
    assert calls == [64, 64, 64, 64, 64, 44]  # three batches were not read again
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert report.counts["objects"] == 900
    assert {path.name for path in tmp_path.glob("out*")} == {
        "out.jsonl", "out.jsonl.dropped.jsonl", "out.jsonl.report.json",
    }  # fmt: skip


@pytest.mark.parametrize("change", ["seed", "source"])
def test_parts_of_another_conversion_are_begun_anew(tmp_path, monkeypatch, change):
    source = many(tmp_path / "source", 200)
    monkeypatch.setattr(output, "_EVERY", 0.0)
    real = output.Output.finish

    def stop(self):
        raise _Stopped

    monkeypatch.setattr(output.Output, "finish", stop)
    with pytest.raises(_Stopped):
        convert(job(source, tmp_path / "out.jsonl"))
    monkeypatch.setattr(output.Output, "finish", real)
    if change == "source":
        source.write_text(source.read_text().replace("thing", "other thing"))
    seed = 1 if change == "seed" else 0
    convert(job(source, tmp_path / "out.jsonl", seed=seed))
    convert(job(source, tmp_path / "whole.jsonl", seed=seed))
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_the_seed_changes_questions_alone(tmp_path):
    first, _ = converted(tmp_path, "coco", "coco/annotations/instances_val2017.json", "coco", seed=0)
    other, _ = converted(tmp_path, "coco", "coco/annotations/instances_val2017.json", "coco", seed=1)
    assert [one["conversations"] for one in first] != [one["conversations"] for one in other]
    assert [one["regions"] for one in first] == [one["regions"] for one in other]
    assert [one["conversations"][1] for one in first] == [one["conversations"][1] for one in other]


def test_many_objects_make_several_records(tmp_path):
    records, _ = converted(tmp_path, "coco", "coco/annotations/instances_val2017.json", "coco", turns=3)
    assert [one["id"] for one in records] == ["coco/102", "coco/102#1", "coco/101", "coco/103"]
    assert [len(one["regions"]) for one in records] == [3, 1, 3, 2]
    assert ["source" in one for one in records] == [True, False, True, True]
    objects = records[0]["source"]["objects"]
    assert [one["region"] for one in objects[:3]] == [0, 1, 2]
    assert objects[3]["region"] == records[1]["regions"][0]  # it is not in this record's regions


def test_without_source_and_without_images(tmp_path):
    records, _ = converted(
        tmp_path, "coco", "coco/annotations/instances_val2017.json", "yolo", keep_source=False, open_images=False
    )
    assert [one["image"] for one in records] == [f"{number:012}.jpg" for number in (102, 101, 103)]
    assert all(set(one) == {"id", "image", "conversations", "regions"} for one in records)
    with pytest.raises(SourceError, match="labels are fractions of an image's size, so images must be opened"):
        converted(tmp_path, "yolo", "yolo", "yolo", open_images=False)


def test_what_a_user_gets_wrong(tmp_path):
    source = FIXTURES / "coco/annotations/instances_val2017.json"
    with pytest.raises(ValueError, match="is no folder; name the one that the images lie in"):
        convert(Job("coco", source, tmp_path / "none", tmp_path / "out.jsonl"))
    with pytest.raises(SourceError, match="is no folder; make it"):
        convert(Job("coco", source, tmp_path, tmp_path / "none/out.jsonl"))
    with pytest.raises(SourceError, match="coco has no setting 'origin'; it has: captions"):
        convert(Job("coco", source, tmp_path, tmp_path / "out.jsonl", {"origin": "1"}))
    with pytest.raises(SourceError, match="voc: origin is one of auto, 0, 1, got '2'"):
        convert(Job("voc", FIXTURES / "voc", tmp_path, tmp_path / "out.jsonl", {"origin": "2"}))
    with pytest.raises(SourceError, match=r"gives no record as coco:(.|\n)*11  dropped: its image is not"):
        convert(Job("coco", source, tmp_path, tmp_path / "out.jsonl"))
    assert not list(tmp_path.iterdir())


def test_command(tmp_path, capsys):
    source, out = str(FIXTURES / "yolo"), tmp_path / "out.jsonl"
    words = ["data", "convert", "auto", source, "--image-folder", source, "--out", str(out), "--boxes"]
    assert cli.main(words) == 2
    assert "class 9 has no name" in capsys.readouterr().err
    assert cli.main([*words, "--max_bad_records", "1", "--set", "split=val"]) == 0
    printed = capsys.readouterr().out
    assert "10  objects" in printed
    assert "2  dropped: image without labels" in printed
    assert json.loads((tmp_path / "out.jsonl.report.json").read_text())["dropped"]["no_labels"] == 2
    assert cli.main(["data", "convert", "--detect", source]) == 0
    assert capsys.readouterr().out.startswith("yolo (85%)")
    assert cli.main(["data", "convert", "--formats"]) == 0
    assert "--set origin=auto" in capsys.readouterr().out
    assert cli.main(["data", "convert", "coco"]) == 2
    assert cli.main([*words, "--set", "split"]) == 2
    assert "--set takes NAME=VALUE, got 'split'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "split=train", "--set", "split=val"], "--set gives split twice"),
        (["--held-out", "refs.txt", "--no-exclude-leaks"], "give one of them"),
        (["--detect", "data.yaml"], "leave FORMAT and SOURCE out"),
        (["--box-text", "inches"], "--box-text is one of"),
        (["--box-jitter", "2"], "--box-jitter 2.0: a part of a box's extent"),
        (["--turns", "-1"], "--turns is 0 or more"),
        (["--task", "guessing"], "guessing"),
        (["--negatives"], "--negatives changes nothing for --task basic; it goes with attribute, counting"),
        (
            ["--task", "counting", "--box-text", "pixels"],
            "--box-text changes nothing for --task counting; it goes with g",
        ),
    ],
)
def test_options_that_are_wrong_or_do_not_go_together(tmp_path, capsys, words, expected):
    source = str(FIXTURES / "yolo")
    out = ["--image-folder", source, "--out", str(tmp_path / "out.jsonl")]
    assert cli.main(["data", "convert", "yolo", source, *out, *words]) == 2
    assert expected in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--workers", "0"], ["--workers", "two"], ["--backend", "spark"]])
def test_workers_that_are_none(words):
    with pytest.raises(SystemExit):
        cli.main(["data", "convert", "yolo", "x", "--image-folder", "x", "--out", "x", *words])


def test_every_format_of_the_package_is_documented():
    text = (Path(__file__).parents[3] / "docs/convert.md").read_text()
    assert [one.name.lower() for one in Reason if f"`{one.name.lower()}`" not in text] == []
    for name in FORMATS.names():
        assert f"`{name}`" in text
        found = FORMATS.require(name)
        assert issubclass(found, DataFormat)
        assert found.name == name
        assert found.about


@pytest.mark.parametrize("name", FORMATS.names())
def test_a_folder_that_is_no_source_is_named_with_what_is_wanted(name, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.jpg")
    words = ["data", "convert", name, str(tmp_path / "images"), "--image-folder", str(tmp_path)]
    assert cli.main([*words, "--out", str(tmp_path / "out.jsonl")]) == 2
    said = capsys.readouterr().err
    assert "images" in said
    assert "Errno" not in said
    assert not (tmp_path / "out.jsonl").exists()
