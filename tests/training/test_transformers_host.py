"""``--host transformers``: both stages and LoRA with transformers' own models, from records to answers."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import pvit_ext
from pvit_ext import Query, Region
from pvit_ext.adapters.lora import find_all_linear_names
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.records import load_records
from pvit_ext.hosts import precision
from pvit_ext.hosts.transformers.attach import attach
from pvit_ext.hosts.transformers.dataset import RegionDataset
from pvit_ext.hosts.transformers.entry import HOST as ENTRY
from pvit_ext.hosts.transformers.training import connectors
from pvit_ext.train import main
from pvit_ext.training.host import take_host
from pvit_ext.training.plan.steps import measured_rates
from pvit_ext.training.run import parse_flags
from pvit_ext.training.transformers.arguments import TransformersDataArguments
from pvit_ext.training.transformers.host import TransformersHost
from tests.hosts.transformers.inputs import ALL, ALL_BUT_TWO_SLOW, OSPREY, make_image
from tests.hosts.transformers.zoo import ZOO

COLOURS = ("red", "green", "blue", "yellow")


def write_records(folder: Path, count: int = 8) -> Path:
    """Records of one turn and of two, with one image each; the last has none."""
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for number in range(count - 1):
        make_image(90 + 8 * (number % 3), 60 + 9 * (number % 2), number).save(folder / f"{number}.png")
        colour = COLOURS[number % 4]
        turns = [("human", "<image>\nwhat is in <region> ?"), ("gpt", f"a {colour} dog")]
        regions: list[Any] = [[5, 5, 40, 40]]
        if number % 2:
            turns += [("human", "and in <region> or <region> ?"), ("gpt", "no cat")]
            regions += [[20, 10, 60, 50], {"polygon": [[1, 1], [50, 2], [20, 40]]}]
        records.append({"image": f"{number}.png", "regions": regions, "conversations": as_turns(turns)})
    records.append({"conversations": as_turns([("human", "where is a cat ?"), ("gpt", "left of the dog")])})
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    return path


def as_turns(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"from": role, "value": text} for role, text in turns]


def with_regions(name: str) -> tuple[Any, Any]:
    model, processor = ALL[name]()
    torch.manual_seed(1)
    config = pvit_ext.RegionConfig("osprey", encoder_options=OSPREY, delimiters=True)
    return attach(model, config, processor=processor), processor


def dataset_of(path: Path, processor: Any, jitter: float = 0.0, limit: int = 2048) -> RegionDataset:
    data = TransformersDataArguments(data_path=str(path), image_folder=str(path.parent), region_jitter=jitter)
    bad = BadRecords(0)
    return RegionDataset(load_records(str(path), str(path.parent), bad), bad, processor, data, limit, 0)


def save_stock(name: str, folder: Path) -> Path:
    for part in ZOO[name]():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stock("llava", tmp_path_factory.mktemp("llava"))


def flags(checkpoint: Path, data: Path, output: Path, **changed: Any) -> list[str]:
    values: dict[str, Any] = {
        "host": "transformers", "model_name_or_path": checkpoint, "data_path": data, "image_folder": data.parent,
        "region_encoder": "osprey", "region_encoder_options": json.dumps(OSPREY), "output_dir": output, "max_steps": 4,
        "per_device_train_batch_size": 4, "learning_rate": 1e-2, "lr_scheduler_type": "constant", "report_to": "none",
        "save_strategy": "no", "disable_tqdm": True, "stage": "align", "logging_steps": 1,
    }  # fmt: skip
    merged = {key: value for key, value in (values | changed).items() if value is not None}
    return [word for key, value in merged.items() for word in (f"--{key}", str(value))]


def run(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> Any:
    """Train; returns the trainer."""
    seen: list[Any] = []
    export = TransformersHost.export
    monkeypatch.setattr(TransformersHost, "export", lambda host, trainer: (seen.append(trainer), export(host, trainer)))
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    main()
    return seen[-1]


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("name", ALL_BUT_TWO_SLOW)
def test_lora_goes_to_the_language_model_alone(name: str) -> None:
    import re

    model, _ = with_regions(name)
    pattern = re.compile(find_all_linear_names(model))
    chosen = {name for name, _ in model.named_modules() if pattern.fullmatch(name)}
    language = model.model.language_model
    linear = {id(module) for module in language.modules() if isinstance(module, torch.nn.Linear)}
    assert len(chosen) >= 6 * 2  # in each of two blocks
    assert {id(model.get_submodule(name)) for name in chosen} == linear
    assert connectors(model)


def test_align_trains_region_modules_alone_and_its_folder_answers(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_records(tmp_path / "data")
    trainer = run(monkeypatch, flags(llava, data, tmp_path / "out", max_steps=12))
    assert losses(trainer)[-1] < losses(trainer)[0]
    assert all(rate > 0 for rate in measured_rates(str(tmp_path / "out")).values()), "without a tracker too"
    stock, _ = ZOO["llava"]()
    trained = trainer.model.state_dict()
    for key, value in stock.state_dict().items():
        assert torch.equal(trained[key], value), key
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(tmp_path / "out"), device="cpu")
    for key, value in model.state_dict().items():
        assert torch.equal(trained[key], value), key
    query = Query(data.parent / "0.png", "what is in <region> ?", [Region.box(5, 5, 40, 40)])
    assert isinstance(pvit_ext.ask(model, tokenizer, processor, [query], max_new_tokens=3)[0], str)


def test_finetune_goes_on_from_align_and_writes_a_checkpoint(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_records(tmp_path / "data")
    run(monkeypatch, flags(llava, data, tmp_path / "one"))
    plain = {"region_encoder": None, "region_encoder_options": None, "stage": "finetune", "learning_rate": 1e-3}
    plain |= {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1}
    own = {**plain, "region_box_embedding": True, "mm_projector_lr": 1e-4, "gradient_checkpointing": True}
    trainer = run(monkeypatch, flags(tmp_path / "one", data, tmp_path / "two", **own))
    rates = {group["lr"]: len(group["params"]) for group in trainer.optimizer.param_groups if group["params"]}
    assert set(rates) == {1e-3, 1e-4}
    stock, _ = ZOO["llava"]()
    before, after = stock.state_dict(), trainer.model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert not [key for key in changed if "vision_tower" in key]
    assert any("language_model" in key for key in changed)
    assert any("multi_modal_projector" in key for key in changed)
    _, model, processor, _ = pvit_ext.load_pretrained_model(str(tmp_path / "two"), device="cpu")
    assert model.region_config.box_embedding
    assert processor.pvit_regions.config == model.region_config
    for key, value in model.state_dict().items():
        assert torch.equal(after[key], value), key
    (checkpoint,) = (tmp_path / "two").glob("checkpoint-*")
    ids = [ids_of(folder) for folder in (tmp_path / "one", tmp_path / "two", checkpoint)]
    assert ids == [ids_of(llava)] * 3


def ids_of(folder: Path) -> list[int]:
    """Of a text, by the tokenizer that a checkpoint loads with."""
    tokenizer = pvit_ext.load_pretrained_model(str(folder), device="cpu")[0]
    return list(tokenizer("Which is larger,  the first <s> or the second?").input_ids)


def test_lora_writes_an_adapter_that_loads_to_the_same(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_records(tmp_path / "data")
    own = {"stage": "finetune", "lora_enable": True, "lora_r": 4, "lora_dropout": 0.0}
    trainer = run(monkeypatch, flags(llava, data, tmp_path / "out", **own))
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(4)])
    _, model, _, _ = pvit_ext.load_pretrained_model(str(tmp_path / "out"), device="cpu")
    with torch.no_grad():
        expected, found = (one.eval()(**batch).logits for one in (trainer.model, model))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    trained = {name for name, one in trainer.model.named_parameters() if one.requires_grad}
    assert any("multi_modal_projector" in name for name in trained)
    assert not [name for name in trained if "vision_tower" in name]


def test_flags_of_llava_are_said_to_be_without_effect(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_records(tmp_path / "data")
    with caplog.at_level(logging.WARNING):
        run(monkeypatch, flags(llava, data, tmp_path / "out", max_steps=1, version="v1", image_aspect_ratio="pad"))
    assert "without effect" in caplog.text
    assert "--version" in caplog.text
    assert "--image_aspect_ratio" in caplog.text


@pytest.mark.parametrize("lora", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_trackers_show_answers_and_throughput(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: bool
) -> None:
    data = write_records(tmp_path / "data")
    own = {"stage": "finetune", "lora_enable": True} if lora else {}
    shown = {"report_to": "tensorboard", "region_eval_data": data, "region_eval_samples": 2}
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "log"))
    trainer = run(monkeypatch, flags(llava, data, tmp_path / "out", max_steps=2, **shown, **own))
    (entry, *_) = [entry for entry in trainer.state.log_history if "regions_per_second" in entry]
    assert entry["samples_per_second"] > 0
    assert entry["tokens_per_second"] > entry["samples_per_second"]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert {"validation/1", "validation/2"} <= set(events.Tags()["images"])


def test_a_checkpoint_of_llava_is_refused(llava_checkpoint: Path, tmp_path: Path, monkeypatch: Any) -> None:
    data = write_records(tmp_path / "data")
    monkeypatch.setattr(ENTRY, "load", None)  # it is not loaded to find out
    with pytest.raises(ValueError, match=r"--host transformers trains .* is none: leave --host out"):
        run(monkeypatch, flags(llava_checkpoint, data, tmp_path / "out"))


def test_loading_leaves_it_to_the_run_to_say_that_bfloat16_is_slow(
    llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Which knows whether it computes on the CPU that the model is loaded on."""
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    host, rest = take_host(flags(llava, write_records(tmp_path / "data"), tmp_path / "out", bf16=True))
    model, _ = host.load_model(parse_flags(host, rest))
    assert model.dtype == torch.bfloat16
    assert "bfloat16" not in caplog.text


def test_the_llava_host_refuses_a_checkpoint_of_transformers(llava: Path, tmp_path: Path, monkeypatch: Any) -> None:
    arguments = flags(llava, write_records(tmp_path / "data"), tmp_path / "out", host="llava")
    with pytest.raises(ValueError, match="is a checkpoint of transformers' own 'llava'"):
        run(monkeypatch, arguments)


def test_several_gpus_in_one_process_are_refused(llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match=r"one process sees 2 GPUs: start one for each .*CUDA_VISIBLE_DEVICES=0"):
        run(monkeypatch, flags(llava, write_records(tmp_path / "data"), tmp_path / "out"))


def test_no_group_of_the_optimizer_is_empty(llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"region_encoder": "text", "region_encoder_options": None, "stage": "finetune", "freeze_backbone": True}
    trainer = run(
        monkeypatch, flags(llava, write_records(tmp_path / "data"), tmp_path / "out", mm_projector_lr=1e-4, **own)
    )
    assert all(group["params"] for group in trainer.optimizer.param_groups)


def test_a_frozen_tower_stays_in_eval_mode() -> None:
    model, processor = ZOO["llava"]()
    attach(model, pvit_ext.RegionConfig("osprey", encoder_options=OSPREY), processor=processor)
    tower = model.model.vision_tower.requires_grad_(False)
    for holder in (model, model.base_model, tower):
        holder.train()
        assert not any(module.training for module in tower.modules())
    assert model.training
    for module in model.modules():
        module.train()
    side = model.config.vision_config.image_size
    tower(torch.zeros(1, 3, side, side))
    assert not any(module.training for module in tower.modules())
    tower.requires_grad_(True)
    assert all(module.training for module in model.train().model.vision_tower.modules())
