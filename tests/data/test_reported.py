"""What a conversion reports as of val or test is known to every file that is made of its records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pvit_ext import cli
from pvit_ext.data.held_out import reported
from tests.data.records import record, write

HELD_OUT = {"coco 102": "refcoco refs(unc) val"}


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """Records beside the report of a conversion of RefCOCO."""
    path = write(tmp_path, [record(number, image=f"{number:012}.jpg", tags=["a"]) for number in range(4)], "ref.jsonl")
    path.with_name("ref.jsonl.report.json").write_text(json.dumps({"held_out": HELD_OUT}))
    return path


def mixed(tmp_path: Path, *files: Path) -> tuple[int, str]:
    """A mixture of files with an image of val; how many images were left out, and what was said."""
    write(tmp_path, [record(number, image=f"{number:012}.jpg") for number in (102, 103)], "coco.jsonl")
    sources = {f"s{number}": str(file) for number, file in enumerate([tmp_path / "coco.jsonl", *files])}
    (tmp_path / "mix.yaml").write_text(json.dumps({"sources": sources}))
    assert cli.main(["data", "mix", str(tmp_path / "mix.yaml"), "--out", str(tmp_path / "mixed.jsonl")]) == 0
    report = json.loads((tmp_path / "mixed.jsonl.report.json").read_text())
    assert report["held_out"] == (HELD_OUT if report["dropped"] else {})
    return report["dropped"].get("held_out", 0), "\n".join(report["remarks"])


def test_behind_tags(tmp_path: Path, records: Path) -> None:
    table = write(tmp_path, json.dumps({f"{number:012}.jpg": ["cat"] for number in range(4)}), "t.json")
    out = tmp_path / "tagged.jsonl"
    assert cli.main(["data", "tags", str(records), "--tagger", str(table), "--out", str(out)]) == 0
    assert mixed(tmp_path, out)[0] == 1


def test_behind_split(tmp_path: Path, records: Path) -> None:
    assert cli.main(["data", "split", str(records), "--out", str(tmp_path / "p"), "--parts", "train=0.5,val=0.5"]) == 0
    report = json.loads((tmp_path / "p/val.jsonl.report.json").read_text())
    assert report["counts"] == {"records": 2, "photographs": 2}
    assert mixed(tmp_path, tmp_path / "p/train.jsonl")[0] == 1


def test_behind_mix(tmp_path: Path, records: Path) -> None:
    (tmp_path / "one.yaml").write_text(f"sources: {{a: {records}}}")
    words = ["data", "mix", str(tmp_path / "one.yaml"), "--out", str(tmp_path / "one.jsonl")]
    for more in ([], ["--no-exclude-leaks"]):
        assert cli.main([*words, *more]) == 0
        assert mixed(tmp_path, tmp_path / "one.jsonl")[0] == 1


@pytest.mark.parametrize("text", ['{"held_out": {"a": "b"}', "[]", "{}", '{"held_out": 3}', "\ud800"])
def test_a_report_that_says_nothing_is_told(
    tmp_path: Path, records: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = records.with_name("ref.jsonl.report.json")
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    count, said = mixed(tmp_path, records)
    assert count == 0
    assert f"WARNING: {path} does not say which photographs are of val or test" in said
    assert cli.main(["data", "split", str(records), "--out", str(tmp_path / "p")]) == 0
    assert f"WARNING: {path} does not say" in capsys.readouterr().out
    assert reported([tmp_path / "coco.jsonl"]) == ({}, [])
