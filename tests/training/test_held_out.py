"""``--region_eval_data``: loss and accuracy on records that a run does not train on, and the best checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pvit_ext.data.records import RecordError
from pvit_ext.hosts.llava import compat
from pvit_ext.training import best, checkpointing, held_out
from pvit_ext.training.arguments import DataFlags
from pvit_ext.training.identity import Identity
from pvit_ext.training.run_files import check_files
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST
from tests.training import runs
from tests.training.records import record

Start = Callable[..., Any]
"""Trains into a folder with flags, and returns the trainer."""
TURN = [{"from": "human", "value": "<image>\nwhat is in <region> ?"}, {"from": "gpt", "value": "a dog"}]
LONG = [TURN[0], {"from": "gpt", "value": "a dog that runs over the grass to a cat"}]


def write_held_out(folder: Path, name: str, *conversations: Any) -> Path:
    box = {"image": "1.png", "regions": [[5, 5, 40, 40]]}
    path = folder / name
    path.write_text(json.dumps([{**box, "conversations": turns} for turns in conversations]))
    return path


@pytest.fixture(params=["llava", *["transformers"] * HAS_TRANSFORMERS_HOST])
def start(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Runs on a tiny model of one host."""
    given, checkpoint, data = runs.of_host(request, tmp_path)

    def run(output: str, **own: Any) -> Any:
        if "held_out" in own:
            own["region_eval_data"] = write_held_out(data.parent, "held_out.json", *own.pop("held_out"))
        kept = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "logging_steps": 1, "stage": "align"}
        arguments = given.flags(checkpoint, data, tmp_path / output, **kept, **own)
        with monkeypatch.context() as patch:
            return given.run(patch, arguments)

    return run


def measured(trainer: Any) -> list[tuple[Any, ...]]:
    entries = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    return [(entry["step"], entry["eval_loss"], entry.get("eval_accuracy")) for entry in entries]


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def mean_loss_one_by_one(own: held_out.HeldOut) -> float:
    """Of each answer token, a record at a time."""
    model, total, tokens = own.trainer.model, 0.0, 0
    with held_out.answering(model), torch.no_grad():
        for number in range(own.count):
            batch = own.trainer.data_collator([own.dataset[number]])
            learned = int((batch["labels"] != -100).sum())
            total, tokens = total + float(model(**batch).loss) * learned, tokens + learned
    return total / tokens


def test_training_is_the_same_to_the_bit_and_a_resume_goes_on_with_the_same_numbers(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = {0: 0, 2: 2, 4: 1}  # step -> how many are right
    monkeypatch.setattr(held_out, "ask", scripted := Scripted(answers))
    plain = start("plain")
    own = {"held_out": [TURN, TURN, TURN], "save_total_limit": 1}
    trainer = scripted.run(start, "measured", own)
    assert losses(trainer) == losses(plain)
    assert len(losses(plain)) == 4
    pairs = zip(plain.model.named_parameters(), trainer.model.named_parameters(), strict=True)
    assert all(torch.equal(one, other) for (_, one), (_, other) in pairs)
    assert [(step, right) for step, _, right in measured(trainer)] == [(0, 0), (2, pytest.approx(2 / 3)), (4, 1 / 3)]
    assert "held-out records after step 2: loss " in (said := capsys.readouterr().out)
    assert "accuracy 66.7 % of 3 questions" in said
    kept = sorted(path.name for path in (tmp_path / "measured").glob("checkpoint-*"))
    assert kept == ["checkpoint-2", "checkpoint-4"]  # the best, and the newest
    state = json.loads((tmp_path / "measured" / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]).name == "checkpoint-2"
    assert state["best_metric"] == pytest.approx(2 / 3)
    assert f"best: {tmp_path / 'measured' / 'checkpoint-2'}, with accuracy 0.6667 on held-out records" in said
    shutil.rmtree(tmp_path / "measured" / "checkpoint-4")
    again = scripted.run(start, "measured", own)
    assert measured(again) == measured(trainer)
    assert (again.state.best_metric, again.state.best_model_checkpoint) == (
        trainer.state.best_metric, trainer.state.best_model_checkpoint,
    )  # fmt: skip


class Scripted:
    """Answers as many questions right as are written for the step of the run that asks."""

    def __init__(self, right: dict[int, int]) -> None:
        self.right, self.trainer = right, None

    def run(self, start: Start, output: str, own: dict[str, Any]) -> Any:
        from pvit_ext.training.tracking import Tracking

        show = Tracking.show

        def noting(tracking: Any, *arguments: Any) -> None:
            self.trainer = tracking.trainer
            show(tracking, *arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tracking, "show", noting)
            return start(output, **{**own, "held_out": [*own["held_out"]]})

    def __call__(self, model: Any, *_: Any, **__: Any) -> list[str]:
        assert not model.training
        torch.rand(3)  # what sampling would draw
        right = self.right[self.trainer.state.global_step]
        return ["A dog."] * right + ["a cat"] * (3 - right)


def test_loss_is_the_mean_over_answer_tokens_and_long_answers_have_no_accuracy(
    start: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measure, expected = held_out.HeldOut.measure, []
    monkeypatch.setattr(
        held_out.HeldOut, "measure", lambda own: (expected.append(mean_loss_one_by_one(own)), measure(own))[1]
    )
    trainer = start("out", held_out=[TURN, LONG, TURN], region_jitter=0.4, per_device_eval_batch_size=2)
    assert [(step, right) for step, _, right in measured(trainer)] == [(0, None), (2, None), (4, None)]
    values = [loss for _, loss, _ in measured(trainer)]
    assert values == pytest.approx(expected, rel=1e-5)
    assert len(set(expected)) == 3
    said = capsys.readouterr().out
    assert "no accuracy: " in said
    assert "is no class" in said
    assert trainer.state.best_metric == min(values[1:])
    with pytest.raises(ValueError, match="--metric_for_best_model accuracy"):
        start("two", held_out=[TURN, LONG], metric_for_best_model="accuracy")


def test_accuracy_is_that_of_the_own_set_task(llava_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    """Asked of the model itself, by the folder that the run leaves."""
    from pvit_ext.cli.parser import main as pvit_ext

    path = write_held_out(data.parent, "asked.json", TURN, TURN)
    with pytest.MonkeyPatch.context() as patch:
        own = {"region_eval_data": path, "stage": "finetune", "max_steps": 1, "region_eval_records": 1}
        trainer = runs.run(patch, runs.flags(llava_checkpoint, data, tmp_path / "out", **own))
    asked = trainer.tracking.held_out.samples
    assert [sample.id for sample in asked] == ["0.0"]
    said = held_out.ask(
        trainer.model.eval(), trainer.train_dataset.tokenizer, trainer.train_dataset.data_args.image_processor,
        [held_out.query_of(asked[0])], max_new_tokens=32,
    )  # fmt: skip
    words = ["eval", "own", "--model", str(tmp_path / "out"), "--data", str(path), "--out", str(tmp_path / "eval")]
    pvit_ext([*words, "--image-folder", str(data.parent)])
    lines = (tmp_path / "eval" / "predictions.jsonl").read_text().splitlines()
    (answer,) = [one["answer"] for one in map(json.loads, lines) if one.get("id") == "0.0"]
    assert answer == said[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"region_eval_records": 0}, "--region_eval_records 0"),
        ({"region_eval_data": "x.json", "metric_for_best_model": "f1"}, "--metric_for_best_model f1: .*accuracy, loss"),
    ],
)
def test_impossible_arguments(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    compat.prepare_training()
    from pvit_ext.training.llava.arguments import RegionTrainingArguments

    with pytest.raises(ValueError, match=message):
        RegionTrainingArguments(output_dir=str(tmp_path), report_to="none", **given)


@pytest.mark.parametrize(
    ("greater", "values", "expected"), [(None, [0.5, 0.75, 0.75, 0.25], 2), (False, [0.5, 0.75, 0.25], 3)]
)
def test_a_later_checkpoint_is_better_only_if_it_is(
    tmp_path: Path, greater: bool | None, values: list[float], expected: int
) -> None:
    from transformers import TrainerState

    state = TrainerState()
    for step, value in enumerate(values, 1):
        measures = {"eval_loss": 1.0, "eval_accuracy": value}
        best.note(state, best.Choice(None, greater), measures, tmp_path / f"checkpoint-{step}")
    assert Path(str(state.best_model_checkpoint)).name == f"checkpoint-{expected}"
    assert state.best_metric == values[expected - 1]


@pytest.mark.parametrize(("chosen", "measures", "name"), [
    (None, {"eval_loss": 0.5, "eval_accuracy": 0.0}, "accuracy"),
    ("eval_loss", {"eval_loss": 0.5, "eval_accuracy": 0.0}, "loss"),
    (None, {"eval_loss": 0.5}, "loss"),  # answers too long to be compared
])  # fmt: skip
def test_what_is_said_of_the_best_checkpoint_names_its_measure(
    chosen: str | None, measures: dict[str, float], name: str
) -> None:
    from transformers import TrainerState

    choice = best.Choice.of(SimpleNamespace(metric_for_best_model=chosen, greater_is_better=None))
    state = TrainerState(global_step=2, log_history=[{"step": 2, **measures}, {"step": 2, "train_runtime": 1.0}])
    best.note(state, choice, measures, Path("out/checkpoint-2"))
    assert best.describe(state, choice) == (
        f"best: out/checkpoint-2, with {name} {measures['eval_' + name]:.4f} on held-out records"
    )


def test_the_best_checkpoint_is_not_deleted(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
        checkpointing.mark_complete(tmp_path / f"checkpoint-{step}", Identity({}, {}, {}))
    checkpointing.keep_newest(tmp_path, 1, "checkpoint-1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-3"]


@pytest.mark.parametrize("bad", [[TURN[0]], [{**TURN[0], "value": "<image>\nwhat?"}, TURN[1]]])
def test_bad_held_out_records_are_told_before_the_model_loads(data: Path, bad: Any) -> None:
    path = write_held_out(data.parent, "bad.json", TURN, bad)
    training = SimpleNamespace(region_eval_data=str(path), stage="finetune")
    for folder in (str(data.parent), None):
        files = DataFlags()
        files.data_path, files.image_folder = str(data), folder  # type: ignore[attr-defined]
        with pytest.raises(RecordError, match=r"bad\.json.* 1"):
            check_files(files, training)


def test_a_held_out_record_without_its_image_is_told_before_the_model_loads(data: Path) -> None:
    files = DataFlags()
    files.data_path, files.image_folder = str(data), str(data.parent)  # type: ignore[attr-defined]
    path = write_held_out(data.parent, "bad.json", TURN)
    path.write_text(path.read_text().replace("1.png", "gone.png"))
    with pytest.raises(RecordError, match=r"gone\.png"):
        check_files(files, SimpleNamespace(region_eval_data=str(path), stage="finetune"))


def test_a_bad_record_stops_the_run_before_its_first_step(llava_checkpoint: Path, data: Path, tmp_path: Path) -> None:
    path = data.parent / "outside.json"
    path.write_text(json.dumps([record(0), record(1, regions=[(200, 5, 240, 40)])]))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match=r"outside\.json line 1.*outside"):
        runs.run(patch, runs.flags(llava_checkpoint, data, tmp_path / "out", stage="align", region_eval_data=path))
