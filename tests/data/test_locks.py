"""What one run has to itself: a file that another run has is refused, a file system without locks is not."""

from __future__ import annotations

import errno
import fcntl
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.data.cache import writer
from pvit_ext.data.convert.output import Output
from pvit_ext.data.convert.report import Report
from pvit_ext.data.generate.ledger import Ledger
from pvit_ext.evaluation.predictions import Predictions
from pvit_ext.files import lock

TAKEN: dict[str, Callable[[Path], AbstractContextManager[Any]]] = {
    "ledger": lambda folder: Ledger(folder / "ledger.jsonl"),
    "predictions": lambda folder: Predictions(folder, {"task": "a"}),
    "cache": lambda folder: writer._alone(folder),
    "conversion": lambda folder: Output(folder / "out.jsonl", "key", Report("coco", folder)),
}


@pytest.mark.parametrize("name", TAKEN)
def test_two_runs_do_not_have_one_file(name: str, tmp_path: Path) -> None:
    with TAKEN[name](tmp_path), pytest.raises(ValueError, match=r"another (run|process)"), TAKEN[name](tmp_path):
        pass
    with TAKEN[name](tmp_path):  # the next one has it
        pass


@pytest.mark.parametrize("name", TAKEN)
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_no_other_run(
    name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING), TAKEN[name](tmp_path):
        pass
    assert "no locks here" in caplog.text
    assert str(tmp_path) in caplog.text


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.rename(path.with_name("final"))])
def test_a_file_that_another_run_has_just_finished_is_not_taken(change: Callable[[Path], Any], tmp_path: Path) -> None:
    path = tmp_path / "part"
    with path.open("ab") as late:
        change(path)
        assert not lock(late)
        path.touch()
        assert not lock(late)
