"""Experiment tracking, read back from what wandb and TensorBoard wrote; no network, no account."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pvit_ext import Region, RegionError
from pvit_ext.hosts.llava import compat
from pvit_ext.prompt import number_regions
from pvit_ext.regions.drawing import COLOURS, draw_regions
from pvit_ext.training import throughput
from tests.tiny import TINY_REGIONCLIP

compat.prepare_training()

from pvit_ext.training import tracking  # noqa: E402
from pvit_ext.training.llava.arguments import RegionTrainingArguments  # noqa: E402
from pvit_ext.training.trainer import RegionTrainer  # noqa: E402
from tests.training.test_train import flags, record, run  # noqa: E402

BOX = (10, 20, 50, 40)
IMAGE_SIZE = (90, 60)
PICTURE_SIZE = (512, 341)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train.json`` and ``val.json`` with their images; no wandb settings, credentials or caches but in here."""
    folder = tmp_path_factory.mktemp("world")
    for number in range(8):
        pixels = np.random.RandomState(number).randint(0, 255, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    records = [record(number) for number in range(5)] + [record(5, "Describe the image.", ())]
    records += [record(6, "<region> or <region>?", [BOX, BOX]), record(7, "What is this?", (), image=False)]
    (folder / "train.json").write_text(json.dumps(records))
    two_turns = record(1, "Compare <region> with <region>.", [BOX, (60, 5, 80, 50)])
    two_turns["conversations"] += [{"from": "human", "value": "And now?"}, {"from": "gpt", "value": "red | blue"}]
    validation = [record(0, regions=[BOX]), record(7, "No image?", (), image=False), two_turns, record(2), record(3)]
    (folder / "val.json").write_text(json.dumps(validation))
    return folder


def train(patch: pytest.MonkeyPatch, checkpoint: Path, world: Path, output: Path, **changed: Any) -> Any:
    """2 epochs of 8 records, 2 a micro-batch, 2 micro-batches a step; whose clock ticks only where we say so."""
    clock = [0.0]
    patch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    for owner, name, seconds in (
        (RegionTrainer, "training_step", 1),
        (RegionTrainer, "_save_checkpoint", 100),
        (tracking.Tracking, "_answer", 1000),
    ):
        patch.setattr(owner, name, ticking(getattr(owner, name), clock, seconds))
    values = {
        "stage": "align", "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 2,
        "save_strategy": "steps", "save_steps": 3, "logging_steps": 1,
    }  # fmt: skip
    return run(patch, flags(checkpoint, world / "train.json", output, **(values | changed)))


def ticking(function: Any, clock: list[float], seconds: float) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        clock[0] += seconds
        return function(self, *args, **kwargs)

    return call


def history(trainer: Any, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(logs[name] for name in names) for logs in trainer.state.log_history if "loss" in logs]


def without_wandb_settings(patch: pytest.MonkeyPatch, folder: Path) -> None:
    wandb = pytest.importorskip("wandb")
    wandb.teardown()
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        patch.delenv(name, raising=False)
    for name in ("DIR", "DATA_DIR", "CACHE_DIR", "CONFIG_DIR"):
        patch.setenv(f"WANDB_{name}", str(folder))
    patch.setenv("NETRC", str(folder / "netrc"))
    patch.setenv("WANDB_BASE_URL", "http://localhost:9")  # nothing listens there
    patch.setenv("WANDB_SILENT", "true")


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
    assert config["pvit_ext"]["encoder"] == "regionclip"
    assert config["pvit_ext"]["encoder_options"]["width"] == TINY_REGIONCLIP["width"]


def test_wandb_history_holds_losses_rates_and_throughput(tracked: SimpleNamespace) -> None:
    rows = [row for row in rows_of_history(tracked.records) if "train/loss" in row]
    assert [row["train/global_step"] for row in rows] == [1, 2, 3, 4]
    names = ("loss", "learning_rate", "samples_per_second", "tokens_per_second", "regions_per_second")
    assert [tuple(row[f"train/{name}"] for name in names) for row in rows] == history(tracked.trainer, *names)


def test_throughput_counts_micro_batches_and_no_saves_or_tables(tracked: SimpleNamespace) -> None:
    """A second for each micro-batch of two samples, whatever saves (100 s) and tables (1000 s) took."""
    rates = history(tracked.trainer, "samples_per_second", "tokens_per_second", "regions_per_second")
    assert [samples for samples, _, _ in rates] == [2.0] * 4
    assert sum(regions for *_, regions in rates) * 2 == 2 * (5 + 2)  # two seconds a step, two epochs
    batch = tracked.trainer.whole_batch
    text = int(batch["attention_mask"].sum())
    images, regions = 7 * (16 - 1), 7 * (3 - 1)  # patches; features between two delimiters
    assert sum(tokens for _, tokens, _ in rates) * 2 == pytest.approx(2 * (text + images + regions), rel=1e-12)


def test_tracking_changes_neither_losses_nor_weights(
    tracked: SimpleNamespace, llava_checkpoint: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boxes jitter by the random numbers of this process, which answering must not draw from."""
    plain = train(monkeypatch, llava_checkpoint, world, tmp_path)
    assert plain.args.report_to == []
    assert "samples_per_second" not in plain.state.log_history[0]
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


def assert_box_drawn(picture: Image.Image) -> None:
    assert picture.size == PICTURE_SIZE
    pixels, scale = np.array(picture), PICTURE_SIZE[0] / IMAGE_SIZE[0]
    x0, y0, x1, y1 = (value * scale for value in BOX)
    middle_x, middle_y = int((x0 + x1) / 2), int((y0 + y1) / 2)
    for x, y in ((x0 + 1.5, middle_y), (x1 - 2, middle_y), (middle_x, y0 + 1.5), (middle_x, y1 - 2)):
        assert tuple(pixels[int(y), int(x)]) == COLOURS[0]
    for x, y in ((middle_x, middle_y), (x0 - 3, middle_y), (x1 + 3, middle_y), (middle_x, y1 + 3)):
        assert tuple(pixels[int(y), int(x)]) != COLOURS[0]


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
        ({"region_eval_data": "x.json"}, "add --report_to wandb or tensorboard"),
        ({"region_eval_samples": 0}, "--region_eval_samples 0"),
        ({"region_eval_steps": -1}, "--region_eval_steps -1"),
    ],
)
def test_impossible_arguments(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegionTrainingArguments(output_dir=str(tmp_path), report_to="none", **given)


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


def test_bad_validation_data_stops_the_run_before_its_first_step(
    llava_checkpoint: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    outside = world / "outside.json"
    outside.write_text(json.dumps([record(0), record(1, regions=[(200, 5, 240, 40)])]))
    with pytest.raises(RegionError, match=r"outside\.json line 1.*outside its image"):
        train(monkeypatch, llava_checkpoint, world, tmp_path, report_to="wandb", region_eval_data=outside)
    assert not list(tmp_path.iterdir())


def test_answering_draws_no_random_number_and_goes_back_to_training() -> None:
    model = torch.nn.Dropout().train()
    before = torch.get_rng_state()
    with contextlib.suppress(KeyError), tracking._answering(model):
        assert not model.training
        torch.rand(3)
        raise KeyError
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_rates_are_of_all_processes_over_the_slowest() -> None:
    meter = object.__new__(throughput.Throughput)
    meter.samples, meter.tokens, meter.regions, meter.seconds = 4, torch.tensor(100), 6, 2.0
    other = torch.tensor([[2, 50, 0, 4.0]], dtype=torch.float64)
    rates = meter.rates(lambda own: torch.cat([own, other]), torch.device("cpu"))
    assert rates == {"samples_per_second": 1.5, "tokens_per_second": 37.5, "regions_per_second": 1.5}
    assert (meter.samples, meter.tokens, meter.regions, meter.seconds) == (0, 0, 0, 0.0)


def mask(*boxes: tuple[int, int, int, int]) -> Region:
    pixels = np.zeros((60, 90), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        pixels[y0:y1, x0:x1] = True
    return Region.mask(pixels)


@pytest.mark.parametrize(
    ("region", "drawn", "clear"),
    [
        (Region.box(10, 20, 50, 40), [(10.2, 30), (49.8, 30), (30, 20.2), (30, 39.8)], [(30, 30), (51, 30)]),
        (mask((10, 20, 50, 40), (60, 5, 80, 50)), [(10.2, 30), (60.2, 30), (79.8, 30)], [(30, 30), (55, 30)]),
        (mask((30, 30, 31, 31)), [(30.5, 30.5)], [(32, 32)]),
        (Region.point(45, 30), [(45, 30)], [(47, 32)]),
        (Region.polygon([(10, 10), (80, 10), (45, 50)]), [(45, 10.2), (45, 49)], [(45, 25), (12, 48)]),
        (Region.scribble([(10, 50), (80, 50)]), [(30, 50), (79, 50)], [(30, 45)]),
        (Region.box(0, 0, 90, 60), [(0.2, 30), (89.8, 30), (45, 0.2), (45, 59.8)], [(45, 30)]),
    ],
)
def test_every_kind_of_region_is_outlined(region: Region, drawn: list[Any], clear: list[Any]) -> None:
    image = Image.new("RGB", IMAGE_SIZE, "black")
    picture = draw_regions(image, [region])
    scale = picture.width / image.width
    assert all(picture.getpixel((int(x * scale), int(y * scale))) == COLOURS[0] for x, y in drawn)
    assert all(picture.getpixel((int(x * scale), int(y * scale))) == (0, 0, 0) for x, y in clear)
    assert image.getextrema() == ((0, 0),) * 3  # the image itself stays


def test_regions_have_their_own_colours_and_numbers() -> None:
    image = Image.new("RGB", (900, 60), "black")
    boxes = [Region.box(100 * n + 10, 30, 100 * n + 90, 50) for n in range(9)]
    picture = draw_regions(image, boxes, longest=900)
    assert [picture.getpixel((100 * n + 50, 49)) for n in range(9)] == [*COLOURS, *COLOURS][:9]
    labels = [picture.crop((100 * n + 10, 10, 100 * n + 30, 30)) for n in range(9)]
    assert all((255, 255, 255) in [colour for _, colour in label.getcolors(400) or []] for label in labels)
    assert len({label.convert("1").tobytes() for label in labels}) == 9
    assert number_regions(["<region> or <region>?", "<region>"]) == ["[1] or [2]?", "[3]"]


def test_a_pixel_of_a_large_image_is_still_seen() -> None:
    pixels = np.zeros((3000, 4000), dtype=bool)
    pixels[1000, 2000] = True
    picture = draw_regions(Image.new("RGB", (4000, 3000)), [Region.mask(pixels)])
    assert picture.getpixel((256, 128)) == COLOURS[0]


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
