"""The file of answers: killed at any byte it goes on, and never takes another run's answers for its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pvit_ext.evaluation.predictions import Predictions
from pvit_ext.evaluation.sample import Prediction

RUN = {"task": "own 1", "model": "abc"}
A, B, C = Prediction("a cat", (12.0,)), Prediction("ein H\u00fcndchen\n"), Prediction("")


def filled(folder: Path) -> Predictions:
    predictions = Predictions(folder, RUN)
    predictions.gather()
    predictions.add([("1", A), ("2", B)])
    predictions.add([("3", C)])
    return predictions


def test_what_is_added_is_read(tmp_path: Path) -> None:
    assert filled(tmp_path / "out").read() == {"1": A, "2": B, "3": C}


def test_cut_at_any_byte_the_rest_is_asked_again(tmp_path: Path) -> None:
    raw = filled(tmp_path).main.read_bytes()
    for cut in range(0, len(raw), 3):
        (tmp_path / "predictions.jsonl").write_bytes(raw[:cut])
        predictions = Predictions(tmp_path, RUN)
        predictions.gather()
        found = predictions.read()
        kept = raw[:cut].count(b"\n") - 1
        assert list(found) == ["1", "2", "3"][: max(kept, 0)]
        predictions.add([(id, one) for id, one in (("1", A), ("2", B), ("3", C)) if id not in found])
        assert predictions.read() == {"1": A, "2": B, "3": C}


def test_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    filled(tmp_path)
    other = Predictions(tmp_path, {**RUN, "model": "xyz"})
    with pytest.raises(ValueError, match=r"model was 'abc', is 'xyz'.*name another --out"):
        other.gather()


def test_a_file_without_an_answer_is_started_anew(tmp_path: Path) -> None:
    with Predictions(tmp_path, {**RUN, "model": "xyz"}) as failed:
        failed.gather()
    (tmp_path / "predictions.rank1.jsonl").write_text('{"run": {"task": "other"}}\n')
    with Predictions(tmp_path, RUN) as again:
        again.gather()
        with pytest.raises(ValueError, match="in use by another run"):
            Predictions(tmp_path, RUN).__enter__()
        again.add([("1", A)])
        assert again.read() == {"1": A}
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]
    own = json.dumps({"run": {}, "of": "something else"}) + "\n"
    again.main.write_text(own)
    with pytest.raises(ValueError, match="holds answers of another run"):
        Predictions(tmp_path, {**RUN, "model": "xyz"}).gather()
    assert again.main.read_text() == own


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "predictions.jsonl").write_text('{"id": "1", "answer": "x"}\n')
    with pytest.raises(ValueError, match="is no file of answers"):
        Predictions(tmp_path, RUN).gather()


def test_the_first_rank_takes_in_what_others_wrote(tmp_path: Path) -> None:
    main = filled(tmp_path)
    for rank in (1, 2):
        Predictions(tmp_path, RUN, rank).add([(f"of {rank}", A), ("1", C)])
    with (tmp_path / "predictions.rank2.jsonl").open("a") as file:
        file.write('{"id": "torn", "ans')
    (tmp_path / "predictions.rank3.jsonl").write_text('{"run": {"ta')
    main.gather()
    assert main.read() == {"1": A, "2": B, "3": C, "of 1": A, "of 2": A}
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.jsonl"]
    lines = main.main.read_text().splitlines()
    assert len(lines) == 6
    assert all(json.loads(line) for line in lines)


def test_another_runs_rank_file_is_refused_and_kept(tmp_path: Path) -> None:
    main = filled(tmp_path)
    Predictions(tmp_path, {"task": "other"}, 1).add([("9", A)])
    with pytest.raises(ValueError, match="rank1"):
        main.gather()
    assert (tmp_path / "predictions.rank1.jsonl").exists()


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    with Predictions(tmp_path, RUN) as first:
        first.gather()
        with Predictions(tmp_path, RUN, 1) as other_rank:
            assert other_rank.read() == {}
        second = Predictions(tmp_path, RUN)
        with pytest.raises(ValueError, match="in use by another run"):
            second.__enter__()
    with Predictions(tmp_path, RUN) as again:
        again.gather()
        assert again.read() == {}
