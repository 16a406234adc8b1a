"""``pvit-ext eval``: what cannot be run as it was asked for is said in one line, and nothing is left out in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvit_ext import cli
from pvit_ext.evaluation.task import TASKS


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "give --model DIR, --endpoint-model NAME or --answers FILE"),
        ("--model m --answers {data}", "one of them answers"),
        ("--endpoint http://localhost/v1 --model m", "--endpoint goes with --endpoint-model NAME"),
        ("--answers {data} --arm text --device cpu", "--arm, --device cannot apply with --answers"),
        ("--endpoint-model m --conv-version v1", "--conv-version cannot apply with --endpoint-model"),
        ("--model m --region-words it", "name that arm, or leave it out"),
        ("--answers {data}.no", "there is no such file"),
        ("--answers {data} --set match=x", "--set match is one of whole, words, got 'x'"),
        ("--answers {data} --set other=x", "no setting 'other' here; known: match, history"),
        ("--answers {data} --set match", "--set takes NAME=VALUE, got 'match'"),
        ("--answers {data} --judge-model x", "own is scored without a judge: leave --judge-model out"),
        ("--endpoint-model x", "set it, or give --endpoint URL"),
    ],
)
def test_what_cannot_apply_is_refused(
    options: str,
    said: str,
    own_set: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    data = str(own_set / "data.jsonl")
    words = ["eval", "own", "--data", data, "--image-folder", str(own_set), "--out", str(tmp_path / "out")]
    assert cli.main([*words, *options.format(data=data).split()]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--model m --arm text", "--arm text cannot apply: no question of pope has a region"),
        ("--endpoint http://localhost:1/v1 --endpoint-model m --arm marks", "--arm marks cannot apply"),
        ("--lmms-eval --seed 5", "--seed cannot apply with --lmms-eval"),
    ],
)
def test_what_cannot_apply_to_whole_images_is_refused(
    options: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "pope.jsonl"
    data.write_text('{"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "yes"}\n')
    words = ["eval", "pope", "--data", str(data), "--image-folder", str(tmp_path), "--out", str(tmp_path / "out")]
    assert cli.main([*words, *options.split()]) == 2
    assert said in capsys.readouterr().err


def test_tasks_are_listed_with_their_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["eval", "--tasks"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in TASKS.names())
    assert "--set match=whole" in listed


def test_an_unknown_task_is_answered_with_the_known_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", str(tmp_path), "--image-folder", str(tmp_path), "--out", str(tmp_path / "o"), "--model", "m"]
    assert cli.main(["eval", "nonsense", *words]) == 2
    assert "known: blink, dlc-bench" in capsys.readouterr().err
