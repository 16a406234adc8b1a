"""Your own set, end to end, on tiny models of both hosts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pvit_ext
from pvit_ext import cli
from pvit_ext.data.records import RecordError, load_records
from pvit_ext.evaluation import answering
from pvit_ext.evaluation.arms import Arm
from pvit_ext.evaluation.lion_fields import check_lion
from pvit_ext.evaluation.measures import balanced, by_size, confusion, per_class
from pvit_ext.evaluation.sample import Judged, Prediction, Result, Sample

ROOT = Path(__file__).parents[2]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Questions that reached the model."""
    texts: list[str] = []
    ask = answering.ask

    def spy(*args: Any) -> Any:
        texts.extend(query.text for query in args[3])
        return ask(*args)

    monkeypatch.setattr(answering, "ask", spy)
    return texts


def answers(folder: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return {line["id"]: line["answer"] for line in lines if "id" in line}


def test_answers_are_those_of_ask(checkpoint: Path, own_set: Path, evaluate: Any, tmp_path: Path) -> None:
    values = evaluate("--model", checkpoint, "--max-new-tokens", 4, "--batch-size", 4)
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(checkpoint), device="cpu")
    queries = [
        pvit_ext.Query(record.image_files[0], "What is in <region>?", [region])
        for record in load_records(own_set / "data.jsonl", own_set)
        for region in record.regions
    ]
    want = pvit_ext.ask(model, tokenizer, processor, queries, max_new_tokens=4)
    assert list(answers(tmp_path / "out").values()) == want
    assert len(want) == 9
    assert len(set(want)) > 1
    assert values["samples"] == 9
    assert values["confusion"]["rows"] == ["dog", "red cat", "two digits"]
    assert sum(map(sum, values["confusion"]["counts"])) == 9
    assert {group: one["samples"] for group, one in values["groups"]["size of region"].items()} == {
        "small": 5,
        "medium": 2,
        "large": 2,
    }
    assert values["run"]["arm"].startswith("regions")
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<figure>") >= 9
    assert "What is in [1]?" in page
    assert "data:image/jpeg" in page
    assert "accuracy" in (tmp_path / "out" / "metrics.md").read_text()


@pytest.mark.parametrize("checkpoint", ["llava"], indirect=True)
def test_a_killed_run_goes_on_to_the_same_result(
    checkpoint: Path, evaluate: Any, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--model", checkpoint, "--max-new-tokens", 3, "--batch-size", 2)
    want = evaluate(*options, out="first")
    assert len(asked) == 9
    spied, calls = answering.ask, []

    def dying(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return spied(*args)

    monkeypatch.setattr(answering, "ask", dying)
    with pytest.raises(KeyboardInterrupt):
        evaluate(*options)
    with (tmp_path / "out" / "predictions.jsonl").open("a") as file:
        file.write('{"id": "4.0", "answer": "a d')
    asked.clear()
    assert evaluate(*options) == want
    assert len(asked) == 5
    asked.clear()
    assert evaluate(*options) == want
    assert asked == []
    assert answers(tmp_path / "out") == answers(tmp_path / "first")


@pytest.mark.parametrize("checkpoint", ["transformers"], indirect=True)
def test_another_model_prompt_or_data_is_refused(
    checkpoint: Path, evaluate: Any, own_set: Path, tmp_path: Path
) -> None:
    assert evaluate("--model", checkpoint, "--max-new-tokens", 2)["run"]["dtype"] == "float32"
    data = tmp_path / "other.jsonl"
    data.write_text((own_set / "data.jsonl").read_text().replace("a dog", "two digits"))
    changes = (3, [], "max new tokens"), (2, ["--arm", "image"], "arm"), (2, ["--dtype", "bf16"], "dtype")
    for tokens, change, named in changes:
        with pytest.raises(ValueError, match=f"{named} was"):
            evaluate("--model", checkpoint, "--max-new-tokens", tokens, *change)
    with pytest.raises(ValueError, match="data sha256 was"):
        evaluate("--model", checkpoint, "--max-new-tokens", 2, data=data)
    weights = next(checkpoint.glob("*.safetensors"))
    before = weights.read_bytes()
    weights.write_bytes(before[:-4] + b"\0\1\2\3")
    with pytest.raises(ValueError, match="model was"):
        evaluate("--model", checkpoint, "--max-new-tokens", 2)
    weights.write_bytes(before)


@pytest.mark.parametrize("checkpoint", ["transformers"], indirect=True)
def test_arms_show_regions_in_their_way(checkpoint: Path, evaluate: Any, asked: list[str]) -> None:
    want = {"image": "What is in the object?", "text": "What is in [0.050,0.100,0.333,0.750]?"}
    want["marks"] = "What is in the object within the red rectangle?"
    for arm, question in want.items():
        asked.clear()
        values = evaluate("--model", checkpoint, "--max-new-tokens", 2, "--arm", arm, out=arm)
        assert asked[0] == question
        assert "was trained for the arm 'regions'" in values["run"]["trained for this arm"]
        assert len(values["groups"]["size of region"]) == 3


def test_history_asks_after_the_earlier_turns(own_set: Path) -> None:
    from pvit_ext.evaluation.arms import Arm
    from pvit_ext.evaluation.task import TASKS, TaskOptions

    task = TASKS.require("own")(TaskOptions(own_set / "data.jsonl", str(own_set), {"history": "yes"}))
    last = list(task.load())[5]
    assert last.history[0] == ("<image>\nWhat is in <region>?", "A red cat")
    assert len(last.regions()) == 3
    shown = answering.show(task, last, Arm("image"))
    assert shown.query.history == [
        ("<image>\nWhat is in the object?", "A red cat"),
        ("What is in the object?", "the two digits"),
    ]
    assert shown.query.text == "What is in the object?"


def test_a_model_without_regions_is_asked_by_a_named_arm_only(
    llava_checkpoint: Path, own_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "own", "--data", str(own_set / "data.jsonl"), "--image-folder", str(own_set)]
    command += ["--model", str(llava_checkpoint), "--out", str(tmp_path), "--max-new-tokens", "2", "--device", "cpu"]
    assert cli.main(command) == 2
    assert "not trained for the arm 'regions'" in capsys.readouterr().err
    assert cli.main([*command, "--arm", "image"]) == 0
    assert json.loads((tmp_path / "metrics.json").read_text())["run"]["trained for this arm"] == "yes"


def test_a_long_answer_is_refused_by_its_line(evaluate: Any, own_set: Path, tmp_path: Path) -> None:
    data = tmp_path / "long.jsonl"
    data.write_text((own_set / "data.jsonl").read_text().replace("A red cat.", "It is a cat that sits on a mat."))
    with pytest.raises(ValueError, match=r"long.jsonl line 1 .*'r0'.*is no class"):
        evaluate("--answers", data, data=data)


@pytest.mark.parametrize("checkpoint", ["llava"], indirect=True)
def test_limit_is_a_part_that_the_whole_run_goes_on_from(checkpoint: Path, evaluate: Any, asked: list[str]) -> None:
    options = ("--model", checkpoint, "--max-new-tokens", 2)
    assert evaluate(*options, "--limit", 4)["run"]["samples asked"] == "4 of 9"
    assert len(asked) == 4
    assert evaluate(*options)["samples"] == 9
    assert len(asked) == 9


def results(pairs: Sequence[tuple[str, str | None, tuple[float, ...]]]) -> list[Result]:
    return [
        Result(
            Sample("x", (), "", reference, extra={"class": reference}),
            Prediction("", areas),
            Judged(said, float(said == reference)),
        )
        for reference, said, areas in pairs
    ]


def test_measures() -> None:
    found = results([("a", "a", (10.0, 1e6)), ("a", "b", (1024.0,)), ("b", None, (9216.0,)), ("b", "b", ())])
    assert by_size(found) == {"small": (1.0, 1), "medium": (0.0, 1), "large": (0.0, 1)}
    assert per_class(found, ["b", "a", "c"]) == {"b": (0.5, 2), "a": (0.5, 2)}
    assert balanced({"a": (1.0, 9), "b": (0.0, 1)}) == 0.5
    table = confusion(found, ["a", "b", "c"])
    assert (table.rows, table.columns) == (["a", "b"], ["a", "b", "c", "(other)"])
    assert table.counts == [[1, 1, 0, 0], [0, 1, 0, 1]]


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["llava"], indirect=True)
def test_two_ranks_give_what_one_gives(checkpoint: Path, evaluate: Any, own_set: Path, tmp_path: Path) -> None:
    options = ["--model", str(checkpoint), "--max-new-tokens", "3", "--batch-size", "2", "--device", "cpu"]
    want = evaluate(*options, out="one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    command += ["pvit_ext.cli", "eval", "own", "--data", str(own_set / "data.jsonl"), "--image-folder", str(own_set)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "two"), *options], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("own, 9 samples") == 1
    assert json.loads((tmp_path / "two" / "metrics.json").read_text()) == want
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == sorted(
        path.name for path in (tmp_path / "one").iterdir()
    )


def test_samples_that_the_models_adapters_and_tags_do_not_know_are_named_before_it_loads() -> None:
    given: list[dict[str, Any]] = [{"adapters": "box"}, {}, {"tags": "dog"}, {"adapters": "b"}]
    samples = [
        Sample(str(number), ("a.png",), "what ?", "a", location=f"line {number}", **own)
        for number, own in enumerate(given)
    ]
    config = pvit_ext.RegionConfig(lion_adapters=4, lion_tags="hint")
    with pytest.raises(RecordError) as raised:
        check_lion([*samples, replace(samples[1], history=(("what ?", "a <hint>"),), location="line 4")], config, True)
    assert [problem.partition(",")[0] for problem in raised.value.problems] == [
        "line 0: the task 'box' is none of the model's: region",
        "line 2: tags is a list of texts",
        "line 3: the task 'b' is none of the model's: region",
        "line 4: <hint> stands in an answer; it belongs in a question",
    ]
    check_lion(samples, pvit_ext.RegionConfig(), True)
    check_lion(samples, None, True)
    check_lion([replace(samples[1], adapters_if_known="box")], config, True)


def test_a_question_that_cannot_be_asked_is_named_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> list[str]:
        raise pvit_ext.RegionError("query 1: its regions are nothing")

    monkeypatch.setattr(answering, "ask", refuse)
    samples = [Sample(str(number), (), "what ?", "a", location=f"line {number}") for number in range(3)]
    task: Any = SimpleNamespace(prompt=lambda sample: sample.question)
    loaded: Any = (None, SimpleNamespace(region_config=None), None, 0)
    with pytest.raises(pvit_ext.RegionError, match=r"^line 1: its regions are nothing$"):
        answering._answers(task, samples, Arm("regions"), answering.ModelOptions("m"), loaded)
