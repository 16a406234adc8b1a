"""A data file is read once for all processes of a machine; what they share never outlives a change."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pvit_ext.data import index
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.records import RecordError, count_regions, load_records
from tests.data.records import record, write


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(index.FOLDER, str(tmp_path / "cache"))
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    return tmp_path


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Which files were read through."""
    read: list[Any] = []
    monkeypatch.setattr(index, "scan", lambda path, *rest, scan=index.scan: read.append(path) or scan(path, *rest))
    return read


def old(path: Path) -> Path:
    """A file that did not change just now, when its clock may not tell."""
    os.utime(path, (time.time() - 60,) * 2)
    return path


def rows(count: int, **changes: Any) -> str:
    return "\n".join(json.dumps(record(number, **changes)) for number in range(count))


def test_it_is_read_once(folder: Path, scans: list[Any]) -> None:
    path = old(write(folder, rows(5), "t.jsonl"))
    first, second = load_records(path, folder), load_records(path, folder)
    assert [one.data for one in first] == [one.data for one in second]
    assert [one.location for one in second] == [f"t.jsonl line {n + 1} (id '{n}')" for n in range(5)]
    assert first.summary == second.summary == count_regions(path, folder)
    assert np.array_equal(first.words, second.words)
    assert len(scans) == 1
    load_records(path)  # without looking for images
    assert len(scans) == 2


def test_a_changed_file_is_read_again(folder: Path, scans: list[Any]) -> None:
    path = old(write(folder, rows(5), "t.jsonl"))
    load_records(path, folder)
    path = write(folder, rows(4), "t.jsonl")
    assert len(load_records(path, folder)) == 4
    assert len(load_records(path, folder)) == 4
    assert len(scans) == 3  # a file of this second is not trusted to show its next change


def test_an_old_index_is_not_used(folder: Path, scans: list[Any]) -> None:
    path = old(write(folder, rows(5), "t.jsonl"))
    load_records(path, folder)
    (cached,) = (folder / "cache").glob("*.index")
    os.utime(cached, (time.time() - 2 * index.MAX_AGE,) * 2)
    load_records(path, folder)
    assert len(scans) == 2


@pytest.mark.parametrize("content", [b"", b"{}\n", b"[]\n", b"\xff\n", b'{"key": 5}'])
def test_a_damaged_index_is_not_used(folder: Path, content: bytes) -> None:
    path = old(write(folder, rows(5), "t.jsonl"))
    load_records(path, folder)
    (cached,) = (folder / "cache").glob("*.index")
    cached.write_bytes(content)
    assert len(load_records(path, folder)) == 5
    cached.write_bytes(cached.read_bytes()[:-8])
    assert len(load_records(path, folder)) == 5


def test_without_a_place_for_it_every_process_reads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = old(write(folder, rows(5), "t.jsonl"))
    monkeypatch.setenv(index.FOLDER, str(folder / "a.png"))  # a file
    assert len(load_records(path, folder)) == 5


def test_bad_records_are_shared_and_looked_at_again(folder: Path, scans: list[Any]) -> None:
    path = old(write(folder, rows(3) + "\n" + json.dumps(record(9, image="b.png")), "t.jsonl"))
    for _ in range(2):
        read = load_records(path, folder, BadRecords(1))
        assert [one.data["id"] for one in read] == ["0", "1", "2", "0"]
        with pytest.raises(RecordError, match=r"line 4 .*not in the image folder"):
            load_records(path, folder)
    assert len(scans) == 1
    Image.new("RGB", (40, 20)).save(folder / "b.png")
    assert load_records(path, folder)[3].data["id"] == "9"
    assert len(scans) == 2


def reading(path: Path, folder: Path, start: Any, results: Any) -> None:
    start.wait()
    read: list[Any] = []
    scan = index.scan
    index.scan = lambda *arguments: read.append(1) or scan(*arguments)  # type: ignore[assignment]
    results.put((len(load_records(path, folder)), len(read)))


def test_processes_that_start_together_read_it_once(folder: Path) -> None:
    path = old(write(folder, rows(2000), "t.jsonl"))
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    processes = [context.Process(target=reading, args=(path, folder, start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    start.set()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert [count for count, _ in found] == [2000] * 4
    assert sum(read for _, read in found) == 1


def take(records: Any, numbers: list[int], results: Any) -> None:
    results.put([records[number].data["id"] for number in numbers])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_each_for_itself(folder: Path, method: str) -> None:
    records = load_records(old(write(folder, rows(300), "t.jsonl")), folder)
    assert records[0].data["id"] == "0"  # the file is open before they start
    context = multiprocessing.get_context(method)
    results, numbers = context.Queue(), list(range(299, -1, -1))
    processes = [context.Process(target=take, args=(records, numbers, results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert found == [[str(number) for number in numbers]] * 2


def test_pickled_and_changed(folder: Path) -> None:
    path = write(folder, rows(3), "t.jsonl")
    records = load_records(path, folder)
    again = pickle.loads(pickle.dumps(records))
    assert [one.data for one in again] == [one.data for one in records]
    stale = pickle.loads(pickle.dumps(records))
    write(folder, rows(2), "t.jsonl")
    with pytest.raises(RecordError, match="was changed while it is in use"):
        stale[0]
