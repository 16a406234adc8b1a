"""Where records appear: not where they are read from, not in place of a folder, and not from two runs at once."""

import json
import os

import pytest

from pvit_ext import cli
from pvit_ext.data.convert.notes import Notes
from pvit_ext.data.convert.output import Output, check_out
from pvit_ext.data.convert.report import Report
from pvit_ext.data.mix.config import read_mix
from pvit_ext.data.mix.run import mix_files
from tests.data.convert.truth import FIXTURES, converted
from tests.data.records import record
from tests.data.tags.tiny_onnx import write_detector

LINES = FIXTURES / "refcoco/qwen_vl/refcoco_val.jsonl"


def test_the_source_is_not_overwritten(tmp_path):
    source = tmp_path / "out.jsonl"
    source.write_bytes(LINES.read_bytes())
    with pytest.raises(ValueError, match=r"--out .*out\.jsonl is what is read"):
        converted(tmp_path, "refcoco_jsonl", source, "refcoco/images")
    assert source.read_bytes() == LINES.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def _mix_of(folder):
    (folder / "refs.jsonl").write_bytes(LINES.read_bytes())
    (folder / "mix.yaml").write_text("sources: {a: refs.jsonl}\nheld_out: held.txt")
    return ["data", "mix", str(folder / "mix.yaml")]


def _tags_of(folder):
    (folder / "train.jsonl").write_text(json.dumps(record(0, image="a.png")) + "\n")
    (folder / "tags.json").write_text('{"a.png": ["cat"]}')
    return ["data", "tags", str(folder / "train.jsonl"), "--tagger"]


@pytest.mark.parametrize("out", ["held.txt", "also.txt", "mix.yaml", "tags.json", "det.onnx", "det.names", "train"])
def test_nothing_else_that_is_read_is_overwritten(tmp_path, capsys, out):
    for name in ("held.txt", "also.txt"):
        (tmp_path / name).write_text("7.jpg\n")
    tags, mix = _tags_of(tmp_path), _mix_of(tmp_path)
    (tmp_path / "det.names").write_text("red\ngreen\nblue\n")
    detector = [str(write_detector(tmp_path / "det.onnx")), "--names", str(tmp_path / "det.names")]
    detector += ["--image-folder", str(tmp_path)]
    also = ["--held-out", str(tmp_path / "also.txt")]
    images = ["--image-folder", str(FIXTURES / "refcoco/images")]
    convert = ["data", "convert", "refcoco_jsonl", str(LINES), *images, *also]
    calls = {
        "held.txt": [mix], "also.txt": [[*mix, *also], convert], "mix.yaml": [mix],
        "tags.json": [[*tags, str(tmp_path / "tags.json")]], "det.onnx": [[*tags, *detector]],
        "det.names": [[*tags, *detector]],
        "train": [["data", "tags", str(tmp_path / "train.dropped.jsonl"), *tags[3:], str(tmp_path / "tags.json")]],
    }  # fmt: skip
    (tmp_path / "train.dropped.jsonl").write_bytes((tmp_path / "train.jsonl").read_bytes())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for words in calls[out]:
        assert cli.main([*words, "--out", str(tmp_path / out)]) == 2
        assert f"--out {tmp_path / out} " in (said := capsys.readouterr().err)
        assert "is what is read" in said or "would overwrite" in said
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_is_no_place_for_records(tmp_path):
    (tmp_path / "out.jsonl").mkdir()
    with pytest.raises(ValueError, match=r"--out .*out\.jsonl is a folder"):
        converted(tmp_path, "refcoco_jsonl", LINES, "refcoco/images")
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "mix.yaml").write_text("sources: {a: a.jsonl}")
    with pytest.raises(ValueError, match=r"--out .*out\.jsonl is a folder"):
        mix_files(read_mix(tmp_path / "mix.yaml"), tmp_path / "out.jsonl")


def test_two_runs_do_not_write_one_file(tmp_path):
    out = tmp_path / "out.jsonl"
    with Output(out, "key", Report("coco", LINES)) as first:
        first.add(b"1\n", Notes())
        with pytest.raises(ValueError, match="is being written by another run"), Output(out, "key", first.report):
            pass
        first.add(b"2\n", Notes())
        first.finish()
    assert out.read_bytes() == b"1\n2\n"
    with Output(out, "key", Report("coco", LINES)) as second:  # the next run is free to write
        second.add(b"3\n", Notes())
        second.finish()
    assert out.read_bytes() == b"3\n"


def test_a_folder_of_many_files_is_checked_with_a_look_at_each(tmp_path, monkeypatch):
    files = [tmp_path / f"{number}.xml" for number in range(100)]
    for file in (*files, tmp_path / "out.jsonl", tmp_path / "out.jsonl.report.json"):
        file.touch()
    looks = []
    real = os.stat
    monkeypatch.setattr(os, "stat", lambda *args, **fields: looks.append(args) or real(*args, **fields))
    check_out(tmp_path / "out.jsonl", files)
    assert len(looks) < 2 * len(files)
