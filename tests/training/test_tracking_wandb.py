"""What wandb wrote of a run, read back from its files; no network, no account."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from pvit_ext.files import sha256_file
from pvit_ext.training import tracking, wandb_run
from pvit_ext.training.plan.steps import measured_rates
from tests.tiny import TINY_REGIONCLIP
from tests.training.tracked import assert_box_drawn, history, train, without_wandb_settings


@pytest.fixture(scope="module")
def tracked(llava_checkpoint: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run with wandb on a machine without a key."""
    wandb = pytest.importorskip("wandb")
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        without_wandb_settings(patch, folder)
        own = {"region_eval_data": world / "val.json", "region_eval_samples": 3, "region_eval_steps": 2}
        trainer = train(patch, llava_checkpoint, world, folder / "out", report_to="wandb", **own)
        wandb.finish()
        wandb.teardown()
    (log,) = folder.glob("wandb/offline-run-*/*.wandb")
    return SimpleNamespace(trainer=trainer, folder=folder, records=list(wandb_records(log)))


def wandb_records(path: Path) -> Iterator[Any]:
    """wandb's transaction log: a header of 7 bytes, then LevelDB's log format, records of protobuf."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        if kind == 0:  # the rest of a block of 32 KiB
            at += 32768 - at % 32768
            continue
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        if kind in (1, 4):  # whole, or the last part
            message = wandb_internal_pb2.Record()
            message.ParseFromString(parts)
            parts = b""
            yield message


def updates(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def rows_of_history(records: list[Any]) -> list[dict[str, Any]]:
    return [updates(one.history.item) for one in records if one.WhichOneof("record_type") == "history"]


def test_wandb_config_holds_all_arguments_and_the_region_config(tracked: SimpleNamespace, world: Path) -> None:
    config: dict[str, Any] = {}
    for one in tracked.records:
        if one.WhichOneof("record_type") == "config":
            config |= updates(one.config.update)
    of_training, of_model = {"learning_rate": 1e-2, "stage": "align"}, {"version": "v1", "region_projector": None}
    of_data = {"data_path": str(world / "train.json"), "region_jitter": 0.02}
    expected = of_training | of_model | of_data
    assert {key: config[key] for key in expected} == expected
    assert config["losses_depend_on"]["data_path"] == f"sha256 {sha256_file(world / 'train.json')}"
    assert config["pvit_ext"]["encoder"] == "regionclip"
    assert config["pvit_ext"]["encoder_options"]["width"] == TINY_REGIONCLIP["width"]


def test_wandb_history_holds_losses_rates_and_throughput(tracked: SimpleNamespace) -> None:
    rows = [row for row in rows_of_history(tracked.records) if "train/loss" in row]
    assert [row["train/global_step"] for row in rows] == [1, 2, 3, 4]
    names = ("loss", "learning_rate", "samples_per_second", "tokens_per_second", "regions_per_second")
    assert [tuple(row[f"train/{name}"] for name in names) for row in rows] == history(tracked.trainer, *names)


def test_wandb_history_holds_loss_and_accuracy_on_held_out_records(tracked: SimpleNamespace) -> None:
    rows = [row for row in rows_of_history(tracked.records) if "eval/loss" in row]
    assert [row["train/global_step"] for row in rows] == [0, 2, 3, 4]
    measured = [entry for entry in tracked.trainer.state.log_history if "eval_loss" in entry]
    assert [row["eval/loss"] for row in rows] == [entry["eval_loss"] for entry in measured]
    assert [row["eval/accuracy"] for row in rows] == [0.0] * 4


def test_throughput_counts_micro_batches_and_no_saves_or_tables(tracked: SimpleNamespace) -> None:
    """A second for each micro-batch of two samples, whatever saves (100 s) and tables (1000 s) took."""
    rates = history(tracked.trainer, "samples_per_second", "tokens_per_second", "regions_per_second")
    assert [samples for samples, _, _ in rates] == [2.0] * 4
    assert sum(regions for *_, regions in rates) * 2 == 2 * (5 + 2)  # two seconds a step, two epochs
    batch = tracked.trainer.batch_of_all
    text = int(batch["attention_mask"].sum())
    images, regions = 7 * (16 - 1), 7 * (3 - 1)  # patches; features between two delimiters
    assert sum(tokens for _, tokens, _ in rates) * 2 == pytest.approx(2 * (text + images + regions), rel=1e-12)


def test_tracking_changes_neither_losses_nor_weights(
    tracked: SimpleNamespace, llava_checkpoint: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes jitter by the random numbers of this process, which answering must not draw from."""
    plain = train(monkeypatch, llava_checkpoint, world, tmp_path)
    assert plain.args.report_to == []
    assert measured_rates(plain.args.output_dir).keys() == {"samples_per_second", "tokens_per_second"}
    losses = history(plain, "loss")
    assert len(set(losses)) > 1
    assert history(tracked.trainer, "loss") == losses
    trained, expected = (one.model.get_model().region_projector.state_dict() for one in (tracked.trainer, plain))
    assert all(torch.equal(trained[key], value) for key, value in expected.items())


def wandb_tables(tracked: SimpleNamespace) -> dict[int, list[tuple[Any, ...]]]:
    """Step -> rows; their images lie in the artifact that wandb makes of a table, their texts in the run, too."""
    artifacts = [one.artifact for one in tracked.records if one.WhichOneof("record_type") == "artifact"]
    logged = [row for row in rows_of_history(tracked.records) if f"{tracking.TABLE}.path" in row]
    tables = {}
    for row, artifact in zip(logged, artifacts, strict=True):
        files = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
        table = json.loads(files[f"{tracking.TABLE}.table.json"].read_text())
        (of_run,) = tracked.folder.glob(f"wandb/offline-run-*/files/{row[f'{tracking.TABLE}.path']}")
        assert [texts for _, *texts in json.loads(of_run.read_text())["data"]] == [one[1:] for one in table["data"]]
        assert table["columns"] == ["picture", "question", "answer", "reference"]
        tables[row["train/global_step"]] = [
            (Image.open(files[image["path"]]).convert("RGB"), *texts) for image, *texts in table["data"]
        ]
    return tables


def test_wandb_table_shows_pictures_questions_answers_and_references(tracked: SimpleNamespace) -> None:
    tables = wandb_tables(tracked)
    assert sorted(tables) == [0, 2, 3, 4]  # before the first step, every second, at the save, at the end
    for rows in tables.values():
        assert [question for _, question, _, _ in rows] == [
            "What is in [1]?",
            "Compare [1] with [2].\nseven red\nAnd now?",
            "What is in [1]?",
        ]
        assert [reference for *_, reference in rows] == ["seven red", "red | blue", "seven red"]
        for number in (0, 1):
            assert_box_drawn(rows[number][0])
    answers = {step: [answer for _, _, answer, _ in rows] for step, rows in tables.items()}
    assert answers[4] == tracked.trainer.tracking._answer()  # by the model as it is after training


def test_without_a_key_wandb_goes_offline_and_says_how_to_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wandb = pytest.importorskip("wandb")
    without_wandb_settings(monkeypatch, tmp_path)
    with caplog.at_level(logging.WARNING):
        tracking.go_offline_without_key()
    assert wandb.setup().settings.mode == "offline"
    assert "wandb sync" in caplog.text
    for name, value, mode in (("WANDB_API_KEY", "k" * 40, "online"), ("WANDB_MODE", "disabled", "disabled")):
        wandb.teardown()
        monkeypatch.setenv(name, value)
        caplog.clear()
        tracking.go_offline_without_key()
        assert wandb.setup().settings.mode == mode
        assert "wandb sync" not in caplog.text
    wandb.teardown()


def test_a_resumed_training_goes_on_in_its_run(
    llava_checkpoint: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    without_wandb_settings(monkeypatch, tmp_path)
    own = {"report_to": "wandb", "save_steps": 2}
    ids = []
    for steps in (2, 4):
        train(monkeypatch, llava_checkpoint, world, tmp_path / "out", max_steps=steps, **own)
        ids.append(wandb.run.id)
        wandb.finish()
        wandb.teardown()
    assert ids[0] == ids[1]
    assert {path.stem for path in tmp_path.glob("wandb/offline-run-*/*.wandb")} == {f"run-{one}" for one in ids}
    assert wandb_run.run_id(tmp_path / "out") == ids[0]
    assert wandb_run.run_id(tmp_path / "out", goes_on=False) != ids[0]
