"""Workers of a conversion: any number of them writes the same, and what kills one is told or survived."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pvit_ext import cli
from pvit_ext.data.convert.base import FORMATS, SourceError
from pvit_ext.data.convert.formats.coco import Coco
from pvit_ext.data.convert.run import Work, convert
from tests.data.convert.jobs import job, many


def test_any_number_of_workers_writes_the_same_bytes(tmp_path):
    source = many(tmp_path / "source", 300)
    written = []
    for workers in (1, 2, 3):
        report = convert(job(source, tmp_path / f"{workers}.jsonl", workers=workers))
        assert report.counts["objects"] == 900
        written.append((tmp_path / f"{workers}.jsonl").read_bytes())
    assert written[0] == written[1] == written[2]


class DyingCoco(Coco):
    """Its process is killed at its hundredth image, once."""

    def __init__(self, source, options):
        super().__init__(source, options)
        self.once, self.calls = source.with_name("killed"), 0

    def read(self, unit, notes):
        self.calls += 1
        if self.calls == 100 and not self.once.exists():
            self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield from super().read(unit, notes)


@pytest.mark.slow
def test_ray_writes_the_same_bytes_also_when_a_worker_is_killed(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    source = many(tmp_path / "source", 1000)
    convert(job(source, tmp_path / "one.jsonl"))
    try:
        convert(job(source, tmp_path / "two.jsonl", workers=2, backend="ray"))
        monkeypatch.setitem(FORMATS, "coco", DyingCoco)
        convert(job(source, tmp_path / "three.jsonl", workers=2, backend="ray"))
    finally:
        ray.shutdown()
    assert source.with_name("killed").exists()
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "three.jsonl").read_bytes()


class FailingCoco(Coco):
    """Its second batch cannot be read."""

    def read(self, unit, notes):
        if "70" in str(unit):
            raise SourceError("coco.json breaks off")
        yield from super().read(unit, notes)


@pytest.mark.slow
def test_an_error_of_the_source_on_ray_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    source = many(tmp_path / "source", 130)
    monkeypatch.setitem(FORMATS, "coco", FailingCoco)
    words = ["data", "convert", "coco", str(source), "--image-folder", str(source.parent)]
    try:
        assert cli.main([*words, "--out", str(tmp_path / "out.jsonl"), "--backend", "ray", "--workers", "2"]) == 2
    finally:
        ray.shutdown()
    assert "pvit-ext: error: coco.json breaks off\n" in capsys.readouterr().err


def test_ray_that_does_not_start_is_told_about(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data")

    def fail(**_):
        raise Exception("the node timed out")

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(ChildProcessError, match=r"Ray does not start \(the node timed out\)"):
        convert(job(many(tmp_path / "source", 3), tmp_path / "out.jsonl", workers=2, backend="ray"))


@pytest.mark.slow
def test_a_killed_conversion_leaves_no_file_and_goes_on(tmp_path):
    source = many(tmp_path / "source", 4000)
    words = ["data", "convert", "coco", str(source), "--image-folder", str(source.parent), "--workers", "2", "--out"]
    code = "import sys; from pvit_ext.data.convert import output, run; output._EVERY = 0.0; from pvit_ext import cli; "
    command = [sys.executable, "-c", code + "sys.exit(cli.main(sys.argv[1:]))", *words]
    process = subprocess.Popen([*command, str(tmp_path / "out.jsonl")])
    state = tmp_path / "out.jsonl.state"
    while not state.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out.jsonl").exists()
    done = json.loads(state.read_text())["batches"]
    assert 0 < done < 63
    assert subprocess.run([*command, str(tmp_path / "out.jsonl")], check=False).returncode == 0
    assert subprocess.run([*command, str(tmp_path / "other.jsonl")], check=False).returncode == 0
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "other.jsonl").read_bytes()


def test_a_worker_that_dies_is_told_about(tmp_path, monkeypatch):
    source = many(tmp_path / "source", 130)
    monkeypatch.setattr(Work, "__reduce__", lambda self: (os._exit, (9,)), raising=False)
    with pytest.raises(ChildProcessError, match="a worker process died"):
        convert(job(source, tmp_path / "out.jsonl", workers=2))
