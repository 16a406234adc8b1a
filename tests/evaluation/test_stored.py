"""Stored answers, by the tasks that have no form of their own for them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest


def test_stored_answers_are_scored_without_a_model(evaluate: Any, tmp_path: Path) -> None:
    said = ["Red cat", "dog", "a dog", "It is a red cat.", "bird", "dog", "the two digits", "dog", "dog"]
    ids = ["0.0", "0.1", "1.0", "2.0", "2.1", "2.2", "3.0", "4.0", "4.1"]
    path = tmp_path / "stored.jsonl"
    path.write_text("".join(json.dumps({"id": id, "answer": one}) + "\n" for id, one in zip(ids, said, strict=True)))
    values = evaluate("--answers", path)
    # references: red cat, dog | dog | red cat, two digits, dog | two digits | dog, red cat
    assert values["metrics"]["accuracy"] == pytest.approx(6 / 9)
    assert values["metrics"]["balanced accuracy"] == pytest.approx((4 / 4 + 1 / 3 + 1 / 2) / 3)
    assert values["metrics"]["accuracy, class within the answer"] == pytest.approx(7 / 9)
    assert values["metrics"]["majority class"] == pytest.approx(4 / 9)
    assert values["metrics"]["no class"] == pytest.approx(2 / 9)
    assert values["confusion"]["counts"] == [[4, 0, 0, 0], [1, 1, 0, 1], [0, 0, 1, 1]]
    assert evaluate("--answers", path, "--set", "match=words")["metrics"]["accuracy"] == pytest.approx(7 / 9)
    path.write_text("\n".join(path.read_text().splitlines()[1:]))
    with pytest.raises(ValueError, match=r"no answer to 1 of 9 samples, such as '0\.0'"):
        evaluate("--answers", path)


def test_classes_of_the_same_words(evaluate: Any, own_set: Path, tmp_path: Path) -> None:
    data, path = tmp_path / "data.jsonl", tmp_path / "stored.jsonl"
    data.write_text((own_set / "data.jsonl").read_text().replace("the two digits", "dog++"))
    ids = ["0.0", "0.1", "1.0", "2.0", "2.1", "2.2", "3.0", "4.0", "4.1"]
    path.write_text("".join(json.dumps({"id": id, "answer": "a dog"}) + "\n" for id in ids))
    values = evaluate("--answers", path, data=data)
    assert "accuracy, class within the answer" not in values["metrics"]
    assert "'dog' and 'dog++' are of the same words" in values["notes"][1]
    with pytest.raises(ValueError, match="match=words cannot tell the classes apart"):
        evaluate("--answers", path, "--set", "match=words", data=data)


def test_stored_answers_of_another_run_are_refused(evaluate: Any, own_set: Path, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    answers = "".join(json.dumps({"id": f"{n}.{k}", "answer": "dog"}) + "\n" for n in range(5) for k in range(3))
    sha = hashlib.sha256((own_set / "data.jsonl").read_bytes()).hexdigest()
    same = {"task": "own 1", "task settings": {"history": "no"}, "data sha256": sha, "model": "m"}
    path.write_text(json.dumps({"run": same}) + "\n" + answers)
    values = evaluate("--answers", path)
    assert {name: one["samples"] for name, one in values["groups"]["size of region"].items()} == {
        "small": 5,
        "medium": 2,
        "large": 2,
    }
    for key, value in (("data sha256", "ab"), ("task", "gqa 1"), ("task settings", {"history": "yes"})):
        path.write_text(json.dumps({"run": {**same, key: value}}) + "\n" + answers)
        with pytest.raises(ValueError, match=f"answers other questions \\({key} was"):
            evaluate("--answers", path)
    path.write_text(answers + json.dumps({"id": "0.0", "answer": "cat"}))
    with pytest.raises(ValueError, match=r"line 16: another answer to '0.0', which has one"):
        evaluate("--answers", path)
