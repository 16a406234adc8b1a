"""Records of ``pvit-ext data convert`` as input: COCO's instances, with the captions of its other file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pvit_ext import cli
from pvit_ext.data.check import check
from tests.data.generate.llm_server import LlmServer, document_of
from tests.data.generate.samples import command, lines_of, scene, write_scenes

COCO = Path(__file__).parents[1] / "fixtures" / "coco"
IMAGES = str(COCO / "val2017")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``instances.jsonl`` and ``captions.jsonl``."""
    folder = tmp_path_factory.mktemp("converted")
    for name in ("instances", "captions"):
        source = str(COCO / "annotations" / f"{name}_val2017.json")
        words = ["coco", source, "--image-folder", IMAGES, "--out", str(folder / f"{name}.jsonl")]
        assert cli.main(["data", "convert", *words]) == 0
    return folder


def generate(folder: Path, out: Path, url: str, *options: str) -> int:
    words = [str(folder / "instances.jsonl"), "--image-folder", IMAGES, "--out", str(out), "--model", "m"]
    return cli.main(["data", "generate", *words, "--base-url", url, *options])


def test_converted_annotations_are_a_source(converted: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with LlmServer() as server:
        assert generate(converted, out, server.url, "--captions", str(converted / "captions.jsonl")) == 0
    documents = [document_of(body) for body in server.bodies]
    assert all(len(document["captions"]) == 5 for document in documents)
    assert {region["label"] for d in documents for region in d["regions"]} >= {"dog", "stop sign", "cup", "person"}
    records = lines_of(out)
    assert {record["task"] for record in records} >= {"same_category", "relationship", "general", "multi_turn"}
    assert any("polygon" in region for record in records for region in record["regions"])
    assert check(out, IMAGES, check_images=True)[0] == []


def test_without_captions_only_what_labels_allow(
    converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    with LlmServer() as server:
        assert generate(converted, out, server.url) == 0
    assert {record["task"] for record in lines_of(out)} == {"small_objects", "same_category", "multi_turn"}
    assert "general: 3 image(s) without (neither captions" in capsys.readouterr().out


def test_records_that_are_no_scene_are_counted(
    converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (converted / "instances.jsonl").read_text() + (converted / "captions.jsonl").read_text()
    further = '{"id": "x", "image": "000000000101.jpg", "conversations": [], "regions": [[1, 2, 9, 9]]}\n'
    (tmp_path / "instances.jsonl").write_text(lines + further)
    assert generate(tmp_path, tmp_path / "out.jsonl", "http://127.0.0.1:9/v1", "--estimate") == 0
    said = capsys.readouterr().out
    assert "3 record(s) left out: nothing is marked in the image" in said
    assert "1 record(s) left out: a record without annotations" in said


def test_a_file_without_captions_says_so(converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--captions", str(converted / "instances.jsonl"))
    assert generate(converted, tmp_path / "out.jsonl", "http://127.0.0.1:9/v1", *options) == 2
    assert "instances.jsonl has no captions" in capsys.readouterr().err


def test_photographs_of_val_and_test_are_known_behind_it(tmp_path: Path) -> None:
    out, images = tmp_path / "out.jsonl", tmp_path / "images"
    images.mkdir()
    write_scenes(images, scene())
    for number in ("scenes", "more"):
        (images / f"{number}.jsonl").write_bytes((images / "scenes.jsonl").read_bytes())
        (images / f"{number}.jsonl.report.json").write_text(json.dumps({"held_out": {f"the file {number}": "val"}}))
    words = ["--strategy", "attribute", "--captions", str(images / "more.jsonl"), "--out", str(out)]
    with LlmServer() as server:
        assert cli.main(command(images, server.url, *words)) == 0
    report = json.loads((tmp_path / "out.jsonl.report.json").read_text())
    assert report["held_out"] == {"the file scenes": "val", "the file more": "val"}
    assert report["counts"] == {"records": 1}
