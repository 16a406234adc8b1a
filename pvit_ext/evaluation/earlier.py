"""The result that an output folder holds already: one of another run is not written over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pvit_ext.evaluation.predictions import NAME
from pvit_ext.files import read_json

METRICS = "metrics.json"
ANSWERS, ANSWERS_HASH, SETTINGS = "answers", "answers sha256", "task settings"
_MODEL, _ENDPOINT = "a checkpoint", "an endpoint"
_KEPT = {
    "ledger.jsonl": "an endpoint's replies",
    NAME: "a checkpoint's answers",
}


def check_model(out: Path) -> None:
    """Refuse a folder with the result of an endpoint or of stored answers; other checkpoints' answers are refused by
    their own file, :mod:`~pvit_ext.evaluation.predictions`.

    Args:
        out: folder of the output.

    Raises:
        ValueError: saying what to do.
    """
    if (there := _read(out)) and _who(there, out) != _MODEL:
        raise _refusal(out, [f"{_who(there, out)} answered, and is a checkpoint now"])


def check_endpoint(out: Path, said: Mapping[str, Any]) -> None:
    """Refuse a folder with the result of anything but this endpoint's model on these questions.

    Args:
        out: folder of the output.
        said: ``task``, ``data sha256``, ``task settings`` that answers depend on, ``arm``, ``prompt sha256``, and the
            ``model``; where that is served does not matter.

    Raises:
        ValueError: saying what differs, and what to do.
    """
    if not (there := _read(out)):
        return
    if _who(there, out) != _ENDPOINT:
        raise _refusal(out, [f"{_who(there, out)} answered, and is {_ENDPOINT} now"])
    there["model"] = str(there.get("model")).rpartition(" at ")[0]
    there["arm"] = str(there.get("arm")).partition(":")[0]
    _compare(out, there, said)


def check_answers(out: Path, answers: Path, said: Mapping[str, Any]) -> None:
    """Refuse a folder with the result of other answers, or of these to other questions.

    Args:
        out: folder of the output.
        answers: file that is scored; the folder's own answers are those of its result.
        said: ``task``, ``data sha256``, ``task settings`` that answers depend on, and the file's ``answers sha256``.

    Raises:
        ValueError: saying what differs, and what to do.
    """
    if not (there := _read(out)):
        return
    before = there.get(ANSWERS, out / NAME if _who(there, out) == _MODEL else None)
    mended = before is not None and Path(before).resolve() == answers.resolve()
    if not mended and there.get(ANSWERS_HASH) != said[ANSWERS_HASH]:
        raise _refusal(out, [f"{_who(there, out)} answered, and is {answers} now"])
    _compare(out, there, {name: one for name, one in said.items() if name != ANSWERS_HASH})


def _read(out: Path) -> dict[str, Any] | None:
    """What the folder's result says of itself; None without one."""
    path = out / METRICS
    if not path.is_file():
        return None
    try:
        values = read_json(path)
    except ValueError:
        values = {}
    if not isinstance(values.get("run"), dict) or "task" not in values:
        raise ValueError(f"{path} is no result of `pvit-ext eval`: name another --out, or remove that file")
    return {**values["run"], "task": values["task"]}


def _who(there: Mapping[str, Any], out: Path) -> str:
    """Who answered; a checkpoint, too, where its answers in this folder were scored again."""
    if (answers := there.get(ANSWERS)) is not None:
        return _MODEL if Path(answers).resolve() == (out / NAME).resolve() else str(answers)
    return _MODEL if "model files" in there else _ENDPOINT


def _compare(out: Path, there: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    """What an earlier version did not note may be anything."""
    known = {**there, SETTINGS: {name: there.get(SETTINGS, {}).get(name, one) for name, one in said[SETTINGS].items()}}
    if differ := [name for name in said if name in known and known[name] != said[name]]:
        raise _refusal(out, [f"{name} was {known[name]!r}, is {said[name]!r}" for name in differ])


def _refusal(out: Path, differ: list[str]) -> ValueError:
    kept = [f"; {name} keeps {what}" for name, what in _KEPT.items() if (out / name).is_file()]
    return ValueError(
        f"{out / METRICS} is the result of another run ({'; '.join(differ)}): name another --out, or remove that "
        f"file{''.join(kept)}"
    )
