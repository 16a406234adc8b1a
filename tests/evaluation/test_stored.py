"""Stored answers, by the tasks that have no form of their own for them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.evaluation.task import TASKS, TaskOptions

IDS = ["0.0", "0.1", "1.0", "2.0", "2.1", "2.2", "3.0", "4.0", "4.1"]


def stored(path: Path, answer: str = "dog", *others: str, run: dict[str, Any] | None = None) -> Path:
    """A file of one answer to all questions of the own set, and to others."""
    head = [] if run is None else [{"run": run}]
    lines = [*head, *({"id": id, "answer": answer} for id in [*IDS, *others])]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_stored_answers_are_scored_without_a_model(evaluate: Any, tmp_path: Path) -> None:
    said = ["Red cat", "dog", "a dog", "It is a red cat.", "bird", "dog", "the two digits", "dog", "dog"]
    path = tmp_path / "stored.jsonl"
    path.write_text("".join(json.dumps({"id": id, "answer": one}) + "\n" for id, one in zip(IDS, said, strict=True)))
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
    path.write_text("".join(json.dumps({"id": id, "answer": "a dog"}) + "\n" for id in IDS))
    values = evaluate("--answers", path, data=data)
    assert "accuracy, class within the answer" not in values["metrics"]
    assert "'dog' and 'dog++' are of the same words" in values["notes"][1]
    with pytest.raises(ValueError, match="match=words cannot tell the classes apart"):
        evaluate("--answers", path, "--set", "match=words", data=data)


def test_stored_answers_of_another_run_are_refused(evaluate: Any, own_set: Path, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    answers = "".join(json.dumps({"id": id, "answer": "dog"}) + "\n" for id in IDS)
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
    with pytest.raises(ValueError, match=r"line 10: another answer to '0.0', which has one"):
        evaluate("--answers", path)


def test_answers_to_samples_that_do_not_exist_are_refused(evaluate: Any, own_set: Path, tmp_path: Path) -> None:
    path = stored(tmp_path / "stored.jsonl", "dog", "5.0", "x")
    with pytest.raises(ValueError, match=r"answers 2 samples that the data has not, such as '5\.0'"):
        evaluate("--answers", path)
    assert evaluate("--answers", stored(path), "--limit", 4)["samples"] == 4
    data = tmp_path / "data.jsonl"
    pointing = "Look at <region>."  # an answer that points at a region is left out, and may have been answered
    first, *others = (own_set / "data.jsonl").read_text().splitlines()
    data.write_text("\n".join([first.replace("a dog", pointing).replace("[3, 4", "[1, 2, 9, 9], [3, 4"), *others]))
    run = evaluate("--answers", stored(path), data=data, out="pointing")["run"]
    assert run["answers to no sample, not scored"] == 1


def test_a_file_in_a_benchmarks_own_form_may_hold_answers_to_more(tmp_path: Path) -> None:
    from pvit_ext.evaluation.stored import stored_answers

    questions = {"1": {"question": "q", "imageId": "0", "answer": "x"}}
    (tmp_path / "gqa.json").write_text(json.dumps(questions))
    said = [{"questionId": id, "prediction": "x"} for id in ("1", "2", "3")]
    (tmp_path / "stored.json").write_text(json.dumps(said))
    task = TASKS.require("gqa")(TaskOptions(tmp_path / "gqa.json", str(tmp_path)))
    samples = list(task.load())
    found = stored_answers(task, samples, samples, tmp_path / "stored.json", {})
    assert found.run == {"answers to no sample, not scored": 2}


def test_what_answers_were_made_with_is_told(evaluate: Any, own_set: Path, tmp_path: Path) -> None:
    sha = hashlib.sha256((own_set / "data.jsonl").read_bytes()).hexdigest()
    run = {"task": "own 1", "task settings": {"history": "no"}, "data sha256": sha}
    told = {"model": "abc", "arm": "regions", "dtype": "float16"}
    path = stored(tmp_path / "stored.jsonl", run={**run, **told})
    values = evaluate("--answers", path)["run"]
    assert (values["model files"], values["arm"], values["dtype"]) == tuple(told.values())
    assert values["answers sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_result_of_others_is_not_written_over(evaluate: Any, tmp_path: Path) -> None:
    path, out = stored(tmp_path / "stored.jsonl"), tmp_path / "out" / "metrics.json"
    first = evaluate("--answers", path)
    assert evaluate("--answers", stored(path, "red cat"))["metrics"] != first["metrics"]  # it was mended
    before = out.read_bytes()
    with pytest.raises(ValueError, match=r"stored.jsonl answered, and is .*copy.jsonl now\): name another --out, or"):
        evaluate("--answers", stored(tmp_path / "copy.jsonl"))
    calls = ("--endpoint", "http://localhost:1/v1", "--endpoint-model", "m")
    with pytest.raises(ValueError, match=r"stored.jsonl answered, and is an endpoint now"):
        evaluate(*calls)
    assert out.read_bytes() == before
    run = {**first["run"], "model": "other at http://localhost:1/v1", "arm": "text: as numbers"}
    del run["answers"]
    out.write_text(json.dumps({**first, "run": run}))
    with pytest.raises(ValueError, match=r"model was 'other', is 'm'; arm was 'text', is 'marks'"):
        evaluate(*calls)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["transformers"], indirect=True)
def test_a_checkpoint_and_its_own_answers_are_one_run(
    checkpoint: Path, evaluate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--model", checkpoint, "--max-new-tokens", 2, "--system", "Be brief.")
    want = evaluate(*options)
    said = {"base": None, "template": "the checkpoint's own", "system prompt": "Be brief.", "decoding": "greedy"}
    assert {name: want["run"][name] for name in said} == said
    own = tmp_path / "out" / "predictions.jsonl"
    scored = evaluate("--answers", own)
    assert scored["metrics"] == want["metrics"]
    assert scored["run"]["model files"] == want["run"]["model files"]
    assert evaluate("--answers", own) == scored
    assert evaluate(*options) == want
    with pytest.raises(ValueError, match="a checkpoint answered, and is"):
        evaluate("--answers", stored(tmp_path / "stored.jsonl"))
    with pytest.raises(ValueError, match=r"a checkpoint answered, and is an endpoint now.*predictions.jsonl keeps"):
        evaluate("--endpoint", "http://localhost:1/v1", "--endpoint-model", "m")
    evaluate("--answers", stored(tmp_path / "stored.jsonl"), out="other")
    with pytest.raises(ValueError, match=r"stored.jsonl answered, and is a checkpoint now"):
        evaluate(*options, out="other")
    monkeypatch.setattr("pvit_ext.inference.decoding.own_options", lambda path, base: {"num_beams": 2})
    with pytest.raises(ValueError, match="decoding was None, is 'greedy'"):  # an earlier version's, by beams
        evaluate(*options)
