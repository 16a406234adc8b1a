"""``python -m pvit_ext.train`` as a program: what it says of an error, which rank says it, and its exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.hosts.llava.patching import PatchError
from pvit_ext.regions.region import RegionError
from pvit_ext.training import run
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST

INPUT_ERRORS = [
    ValueError("--version nope"),
    FileNotFoundError(2, "No such file", "a"),
    RegionError("inverted"),
    PatchError("moved"),
    ImportError("pip install it"),
]
BUGS = [RuntimeError("shapes"), KeyError("x"), ModuleNotFoundError("No module named 'x'", name="x")]


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the program with a ``main`` that fails, before its first step or later."""

    def program(error: Exception, begun: bool = False, words: tuple[str, ...] = ("--stage", "align")) -> Any:
        seen: list[list[str]] = []

        def main(*, began: Any) -> None:
            seen.append(sys.argv[1:])
            if begun:
                began.on_train_begin(None, None, None)
            raise error

        monkeypatch.setattr(run, "main", main)
        monkeypatch.setattr(sys, "argv", ["train", *words])
        with pytest.raises((SystemExit, type(error))) as caught:
            run.run_as_program()
        return caught.value, seen[0]

    monkeypatch.delenv("RANK", raising=False)
    return program


@pytest.mark.parametrize("error", INPUT_ERRORS, ids=repr)
def test_an_error_of_the_input_is_one_line(ends: Any, error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    ended, _ = ends(error)
    assert isinstance(ended, SystemExit)
    assert ended.code == 2
    assert capsys.readouterr().err == f"pvit-ext: error: {error}\n"


@pytest.mark.parametrize("error", BUGS, ids=repr)
def test_another_error_keeps_its_traceback(ends: Any, error: Exception) -> None:
    assert ends(error)[0] is error


def test_an_error_of_a_run_that_has_begun_keeps_its_traceback(ends: Any) -> None:
    error = OSError(28, "No space left on device")
    assert ends(error, begun=True)[0] is error


def test_the_traceback_is_shown_on_request_and_the_run_sees_no_such_flag(ends: Any) -> None:
    error = ValueError("--version nope")
    assert ends(error, words=("--traceback", "--stage", "align")) == (error, ["--stage", "align"])


def test_another_rank_waits_for_the_first_to_say_it(
    ends: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A launcher ends it meanwhile; what it says afterwards is an error of its own machine."""
    said: list[tuple[float, str]] = []
    monkeypatch.setattr(run.time, "sleep", lambda seconds: said.append((seconds, capsys.readouterr().err)))
    monkeypatch.setenv("RANK", "3")
    ended, _ = ends(FileNotFoundError("data.json is not there"))
    assert ended.code == 2
    assert said == [(run.GRACE, "")]
    assert capsys.readouterr().err == "pvit-ext: error (rank 3): data.json is not there\n"


def test_what_the_parser_refuses_is_an_error_without_pages_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    host = run.take_host(["--host", "llava"])[0]
    with pytest.raises(ValueError, match=r"argument --region_projector.*: invalid choice: 'mlp'"):
        run.parse_flags(host, ["--region_projector", "mlp"])
    assert "usage:" not in capsys.readouterr().err


@pytest.mark.parametrize("host", ["llava", *["transformers"] * HAS_TRANSFORMERS_HOST])
def test_unknown_flags_are_named_with_those_that_were_meant(host: str) -> None:
    known = ["--output_dir", "out"]
    given, _ = run.take_host(["--host", host])
    unknown = ["--learning_rat", "1", "--quux", "-2", "3", "--region-jiter", "0.1"]
    said = r"^unknown flags --learning_rat \(--learning_rate\?\), --quux, --region-jiter \(--region[-_]jitter\?\): "
    with pytest.raises(ValueError, match=said):
        run.parse_flags(given, [*known, *unknown])
    with pytest.raises(ValueError, match=r"^'more' 'words' belong to no flag"):
        run.parse_flags(given, ["more", "words", *known])


@pytest.mark.slow
def test_two_ranks_say_an_error_once(tmp_path: Path) -> None:
    words = ["--stage", "align", "--model_name_or_path", "nowhere", "--output_dir", str(tmp_path)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "pvit_ext.train", *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode != 0
    assert done.stderr.count("pvit-ext: error") == 1
    assert "exitcode  : 2" in done.stderr
    assert "run_as_program" not in done.stderr  # of a traceback; the launcher has its own
