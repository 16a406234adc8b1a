"""Experiment tracking, read back from what wandb and TensorBoard wrote; no network, no account."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pvit_ext import RegionError
from pvit_ext.data.records import load_records
from pvit_ext.training import held_out
from pvit_ext.training.llava.arguments import RegionTrainingArguments
from pvit_ext.training.tracking import Sample
from tests.training.records import record
from tests.training.runs import flags
from tests.training.tracked import assert_box_drawn, train


@pytest.mark.slow
def test_tensorboard_shows_the_same_of_a_lora_run(
    llava_checkpoint: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from pvit_ext.training import trainer as region_trainer

    seen: list[Any] = []
    save = region_trainer.RegionTrainer.save_state
    monkeypatch.setattr(region_trainer.RegionTrainer, "save_state", lambda self: (seen.append(self), save(self))[1])
    own = {"report_to": "tensorboard", "region_eval_data": world / "val.json", "save_strategy": "no"}
    arguments = flags(
        llava_checkpoint, world / "train.json", tmp_path / "out",
        stage="finetune", lora_enable=True, lora_r=4, logging_steps=1, **own,
    )  # fmt: skip
    from pvit_ext.train import main

    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    main()
    (runs,) = (tmp_path / "out" / "runs").iterdir()
    events = accumulator.EventAccumulator(str(runs), {"images": 0, "tensors": 0, "scalars": 0}).Reload()
    logs = [entry for entry in seen[0].state.log_history if "loss" in entry]
    assert len(logs) == 2
    for name in ("loss", "learning_rate", "samples_per_second", "tokens_per_second", "regions_per_second"):
        scalars = events.Scalars(f"train/{name}")
        assert [one.step for one in scalars] == [1, 2]
        assert [one.value for one in scalars] == pytest.approx([entry[name] for entry in logs], rel=1e-6)
    measured = [entry for entry in seen[0].state.log_history if "eval_loss" in entry]
    for name in ("loss", "accuracy"):
        scalars = events.Scalars(f"eval/{name}")
        assert [one.step for one in scalars] == [0, 2]
        assert [one.value for one in scalars] == pytest.approx([entry[f"eval_{name}"] for entry in measured], rel=1e-6)
    pictures = events.Images("validation/1")
    assert [one.step for one in pictures] == [0, 2]
    assert_box_drawn(Image.open(io.BytesIO(pictures[-1].encoded_image_string)).convert("RGB"))
    assert sorted(events.Tags()["images"]) == [f"validation/{number}" for number in (1, 2, 3, 4)]
    texts = [one.tensor_proto.string_val[0].decode() for one in events.Tensors("validation/text_summary")]
    answers = [" ".join(answer.replace("|", "\\|").split()) for answer in seen[0].tracking._answer()]
    assert texts[-1].splitlines()[2:4] == [
        f"| validation/1 | What is in [1]? | {answers[0]} | seven red |",
        f"| validation/2 | Compare [1] with [2]. seven red And now? | {answers[1]} | red \\| blue |",
    ]
    arguments_text = events.Tensors("llava_args/text_summary")[0].tensor_proto.string_val[0]
    assert json.loads(arguments_text)["data_path"] == str(world / "train.json")


@pytest.mark.parametrize("report_to", ["none", None])
def test_nothing_is_reported_unless_asked(tmp_path: Path, report_to: str | None) -> None:
    """None is transformers 4's default, which stands for every installed tracker there."""
    pytest.importorskip("wandb")
    assert RegionTrainingArguments(output_dir=str(tmp_path)).report_to == []
    assert RegionTrainingArguments(output_dir=str(tmp_path), report_to=report_to).report_to == []


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for module in (name, f"{name}X"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install "pvit-ext\[{name}\]"'):
        RegionTrainingArguments(output_dir=str(tmp_path), report_to=name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"region_eval_samples": 0}, "--region_eval_samples 0"),
        ({"region_eval_steps": -1}, "--region_eval_steps -1"),
    ],
)
def test_impossible_arguments(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegionTrainingArguments(output_dir=str(tmp_path), report_to="none", **given)


def test_bad_validation_data_stops_the_run_before_its_first_step(
    llava_checkpoint: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    outside = world / "outside.json"
    outside.write_text(json.dumps([record(0), record(1, regions=[(200, 5, 240, 40)])]))
    with pytest.raises(RegionError, match=r"outside\.json line 1.*outside its image"):
        train(monkeypatch, llava_checkpoint, world, tmp_path, report_to="wandb", region_eval_data=outside)
    assert not list(tmp_path.iterdir())


def test_a_row_is_asked_with_the_task_and_the_tags_of_its_record(world: Path) -> None:
    (world / "task.json").write_text(json.dumps([{**record(0), "lion_task": "image", "tags": ["dog"]}]))
    (one,) = load_records(str(world / "task.json"), str(world))
    query = Sample.of(one).query
    assert (query.task, query.tags) == ("image", ["dog"])


def test_answering_draws_no_random_number_and_goes_back_to_training() -> None:
    model = torch.nn.Dropout().train()
    before = torch.get_rng_state()
    with contextlib.suppress(KeyError), held_out.answering(model):
        assert not model.training
        torch.rand(3)
        raise KeyError
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_two_ranks_under_zero3_change_no_loss(llava_checkpoint: Path, world: Path, tmp_path: Path) -> None:
    settings = {"WANDB_MODE": "offline", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    settings |= {f"WANDB_{name}": str(tmp_path) for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR")}
    deepspeed = str(Path(sys.executable).parent / "deepspeed")
    launcher = [deepspeed, "--master_port", "29511", "--num_gpus", "2", "--module", "pvit_ext.train"]
    zero3 = Path(__file__).parents[2] / "recipes" / "zero3.json"
    own = {"per_device_train_batch_size": 2, "num_train_epochs": 2, "logging_steps": 1, "deepspeed": zero3}
    tables = {"report_to": "wandb", "region_eval_data": world / "val.json", "region_eval_steps": 1}
    logs = []
    for name, tracker in (("plain", {}), ("tracked", tables)):
        output = tmp_path / name
        arguments = flags(llava_checkpoint, world / "train.json", output, stage="finetune", **own, **tracker)
        done = subprocess.run(
            [*launcher, *arguments], env=os.environ | settings, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        state = json.loads((output / "trainer_state.json").read_text())
        logs.append([entry for entry in state["log_history"] if "loss" in entry])
    plain, tracked = ([(entry["loss"], entry["grad_norm"]) for entry in own_logs] for own_logs in logs)
    assert tracked == plain
    assert len({loss for loss, _ in plain}) == 4
    by_sample = [entry["regions_per_second"] / entry["samples_per_second"] for entry in logs[1]]
    assert sum(by_sample) * 4 == pytest.approx(2 * (5 + 2))  # four samples a step on both ranks, two epochs
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1  # one rank reports
