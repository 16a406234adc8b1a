"""An output folder keeps the result of its run: the same run goes on, another is refused before it asks anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.evaluation.earlier import check_answers, check_endpoint, check_model

SAID = {"task": "own", "data sha256": "d", "task settings": {"history": "no"}}
ASKED = {**SAID, "model": "m", "arm": "marks", "prompt sha256": "p"}
"""What an endpoint is asked now."""
OF_ENDPOINT = {"model": "m at http://localhost:8000/v1", "arm": "marks: drawn", "prompt sha256": "p"}
OF_MODEL = {"model": "runs/a", "model files": "f", "arm": "regions: tokens"}


def result(out: Path, run: dict[str, Any], task: str = "own") -> Path:
    """A folder with a result of the task; the setting ``match`` is of the score alone."""
    told = {"data sha256": "d", "task settings": {"history": "no", "match": "whole"}, "samples asked": "4 of 9"}
    out.mkdir(exist_ok=True)
    (out / "metrics.json").write_text(json.dumps({"task": task, "run": {**told, **run}}))
    return out


def test_a_folder_without_a_result_is_free(tmp_path: Path) -> None:
    check_model(tmp_path / "not")
    check_endpoint(tmp_path, ASKED)
    check_answers(tmp_path, tmp_path / "a.jsonl", {**SAID, "answers sha256": "a"})


@pytest.mark.parametrize("text", ["{}", '{"run": 5, "task": "own"}', "[]", '{"a": tru'])
def test_a_file_of_somebody_else_is_kept(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.json is no result of `pvit-ext eval`: name another --out"):
        check_model(tmp_path)


def test_an_endpoint_that_moved_is_the_same(tmp_path: Path) -> None:
    check_endpoint(result(tmp_path, {**OF_ENDPOINT, "model": "m at https://other/v1"}), ASKED)
    old = {name: value for name, value in OF_ENDPOINT.items() if name != "prompt sha256"}
    check_endpoint(result(tmp_path, old), ASKED)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "n"}, "model was 'm', is 'n'"),
        ({"arm": "text"}, "arm was 'marks', is 'text'"),
        ({"prompt sha256": "q"}, "prompt sha256 was 'p', is 'q'"),
        ({"task": "gqa"}, "task was 'own', is 'gqa'"),
        ({"data sha256": "e"}, "data sha256 was 'd', is 'e'"),
        ({"task settings": {"history": "yes"}}, "task settings was {'history': 'no'}, is {'history': 'yes'}"),
    ],
)
def test_another_endpoint_or_question_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    out = result(tmp_path, OF_ENDPOINT)
    (out / "ledger.jsonl").touch()
    kept = r"name another --out, or remove that file; ledger.jsonl keeps an endpoint's replies$"
    with pytest.raises(ValueError, match=rf"another run \({said}\): {kept}"):
        check_endpoint(out, {**ASKED, **change})


def test_answers_are_told_by_their_file_or_by_what_it_holds(tmp_path: Path) -> None:
    path, said = tmp_path / "a.jsonl", {**SAID, "answers sha256": "a"}
    out = result(tmp_path / "out", {"answers": str(path), "answers sha256": "a"})
    check_answers(out, path, {**said, "answers sha256": "b"})
    check_answers(out, tmp_path / "moved.jsonl", said)
    with pytest.raises(ValueError, match=r"a.jsonl answered, and is .*b.jsonl now"):
        check_answers(out, tmp_path / "b.jsonl", {**said, "answers sha256": "b"})
    with pytest.raises(ValueError, match=r"data sha256 was 'd', is 'e'"):
        check_answers(out, path, {**said, "data sha256": "e"})
    check_answers(result(out, {"answers": str(path)}), path, said)  # of an earlier version


def test_one_does_not_take_the_place_of_another(tmp_path: Path) -> None:
    path, said = tmp_path / "a.jsonl", {**SAID, "answers sha256": "a"}
    out = result(tmp_path / "out", OF_MODEL)
    with pytest.raises(ValueError, match="a checkpoint answered, and is an endpoint now"):
        check_endpoint(out, ASKED)
    with pytest.raises(ValueError, match=r"a checkpoint answered, and is .*a.jsonl now"):
        check_answers(out, path, said)
    result(out, OF_ENDPOINT)
    with pytest.raises(ValueError, match="an endpoint answered, and is a checkpoint now"):
        check_model(out)
    with pytest.raises(ValueError, match=r"an endpoint answered, and is .*a.jsonl now"):
        check_answers(out, path, said)
    result(out, {"answers": str(path)})
    with pytest.raises(ValueError, match=r"a.jsonl answered, and is a checkpoint now"):
        check_model(out)


def test_a_checkpoint_and_its_own_answers_are_one(tmp_path: Path) -> None:
    own, said = tmp_path / "predictions.jsonl", {**SAID, "answers sha256": "a"}
    check_answers(result(tmp_path, OF_MODEL), own, said)
    check_model(tmp_path)
    check_model(result(tmp_path, {"answers": str(own), "answers sha256": "a", "model files": "f"}))
    check_answers(tmp_path, own, {**said, "answers sha256": "b"})
