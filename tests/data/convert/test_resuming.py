"""What a conversion that goes on takes over from the run before: all that still holds, and not without a word."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from pvit_ext.data.convert import output
from pvit_ext.data.convert.notes import Notes
from pvit_ext.data.convert.output import Output
from pvit_ext.data.convert.report import Report
from pvit_ext.data.convert.run import Work, convert
from tests.data.convert.jobs import job, many


class _Stopped(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that were read."""
    read, calls = Work.__call__, list[int]()
    monkeypatch.setattr(output, "_EVERY", 0.0)

    def counted(self: Work, units: list[object]) -> tuple[bytes, Notes]:
        calls.append(len(units))
        return read(self, units)

    monkeypatch.setattr(Work, "__call__", counted)
    return calls


def stop_after(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the process end where so many batches are written."""
    real = Output.add

    def add(self: Output, lines: bytes, notes: Notes) -> None:
        if self.batches == count:
            raise _Stopped
        real(self, lines, notes)

    monkeypatch.setattr(Output, "add", add)


def test_images_that_were_not_there_are_told(tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = many(tmp_path / "source", 150), tmp_path / "out.jsonl"
    for number in (3, 70):
        (source.parent / f"{number}.jpg").unlink()
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(_Stopped):
            convert(job(source, out))
    for number in (3, 70):
        Image.new("RGB", (64, 48)).save(source.parent / f"{number}.jpg")
    report = convert(job(source, out))
    assert report.dropped["no_image"] == 3
    (said,) = [line for line in report.remarks if "interrupted" in line]
    assert said.startswith("3 objects were left out for their image by the run that was interrupted")
    assert json.loads((tmp_path / "out.jsonl.report.json").read_text())["remarks"] == [said]
    again = convert(job(source, out))  # as the remark says
    assert (again.dropped, again.remarks) == ({}, [])


@pytest.mark.parametrize("first", [0, 9])
def test_a_limit_of_bad_items_loses_nothing_that_was_done(
    tmp_path: Path, calls: list[int], monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    source, out = many(tmp_path / "source", 200), tmp_path / "out.jsonl"
    value = json.loads(source.read_text())
    for one in value["images"][130:132]:
        one["width"] = "wide"
    source.write_text(json.dumps(value))
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises((_Stopped, ValueError)):
            convert(job(source, out, max_bad_records=first))
    with pytest.raises(ValueError, match="2 bad items"):
        convert(job(source, out, max_bad_records=1))
    assert not out.exists()
    del calls[:]
    convert(job(source, out, max_bad_records=2))
    assert len(calls) == (2 if first == 0 else 1)
    convert(job(source, tmp_path / "whole.jsonl", max_bad_records=2))
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert {path.name for path in tmp_path.glob("out*")} == {
        "out.jsonl", "out.jsonl.dropped.jsonl", "out.jsonl.report.json",
    }  # fmt: skip


def test_parts_of_another_run_in_between_are_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.jsonl"
    for key, every, line in (("a", 0.0, b"1\n"), ("b", 9.0, b"other\n")):
        monkeypatch.setattr(output, "_EVERY", every)
        with suppress(_Stopped), Output(out, key, Report("coco", tmp_path)) as first:
            first.add(line, Notes())
            raise _Stopped
    with Output(out, "a", Report("coco", tmp_path)) as again:
        assert again.batches == 0
        again.add(b"1\n", Notes())
        again.finish()
    assert out.read_bytes() == b"1\n"
