"""Answers that somebody stored, by sample id."""

from __future__ import annotations

from pathlib import Path

from pvit_ext.data.json_records import read_json_records
from pvit_ext.evaluation.sample import Prediction


def read_answers(path: Path) -> dict[str, Prediction]:
    """The answers of a file such as ``predictions.jsonl``: JSON Lines, or an array, of ``{"id", "answer"}``.

    Raises:
        ValueError: naming the line that is none.
    """
    found: dict[str, Prediction] = {}
    for one in read_json_records(path):
        line = one.value
        if isinstance(line, dict) and "run" in line:
            continue
        if not (isinstance(line, dict) and isinstance(line.get("answer"), str) and "id" in line):
            raise ValueError(f'{path} line {one.line}: expected {{"id": ..., "answer": text}}, got {str(line)[:80]}')
        found.setdefault(str(line["id"]), Prediction(line["answer"], tuple(line.get("areas", ()))))
    return found
