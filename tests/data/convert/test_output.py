"""Where records appear: not where they are read from, not in place of a folder, and not from two runs at once."""

import pytest

from pvit_ext.data.convert.notes import Notes
from pvit_ext.data.convert.output import Output
from pvit_ext.data.convert.report import Report
from pvit_ext.data.mix.config import read_mix
from pvit_ext.data.mix.run import mix_files
from tests.data.convert.truth import FIXTURES, converted

LINES = FIXTURES / "refcoco/qwen_vl/refcoco_val.jsonl"


def test_the_source_is_not_overwritten(tmp_path):
    source = tmp_path / "out.jsonl"
    source.write_bytes(LINES.read_bytes())
    with pytest.raises(ValueError, match=r"--out .*out\.jsonl is what is read"):
        converted(tmp_path, "refcoco_jsonl", source, "refcoco/images")
    assert source.read_bytes() == LINES.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


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
