"""``--host transformers``: both stages and LoRA with transformers' own models, from records to answers."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import pvit_ext
from pvit_ext import Query, Region
from pvit_ext.adapters.lora import find_all_linear_names
from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.records import RecordError, load_records
from pvit_ext.hosts.transformers.attach import attach
from pvit_ext.hosts.transformers.dataset import IGNORE_INDEX, RegionCollator, RegionDataset
from pvit_ext.hosts.transformers.training import connectors
from pvit_ext.train import main
from pvit_ext.training.transformers.arguments import TransformersDataArguments
from pvit_ext.training.transformers.host import TransformersHost
from tests.hosts.transformers.inputs import ALL, ALL_BUT_TWO_SLOW, OSPREY, picture
from tests.hosts.transformers.zoo import ZOO

COLOURS = ("red", "green", "blue", "yellow")


def write_records(folder: Path, count: int = 8) -> Path:
    """Records of one turn and of two, with one image each; the last has none."""
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    for number in range(count - 1):
        picture(90 + 8 * (number % 3), 60 + 9 * (number % 2), number).save(folder / f"{number}.png")
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
def test_labels_are_the_answers_and_their_ends(name: str, tmp_path: Path) -> None:
    _, processor = with_regions(name)
    dataset = dataset_of(write_records(tmp_path), processor)
    for number, expected in ((0, "a red dog </s>"), (1, "a green dog </s> no cat </s>"), (7, "left of the dog </s>")):
        item = dataset[number]
        learned = item["labels"][item["labels"] != IGNORE_INDEX]
        assert processor.tokenizer.decode(learned) == expected
        assert torch.equal(item["input_ids"][item["labels"] != IGNORE_INDEX], learned)


@pytest.mark.parametrize("name", ALL_BUT_TWO_SLOW)
def test_a_batch_of_items_is_the_processors_batch(name: str, tmp_path: Path) -> None:
    _, processor = with_regions(name)
    dataset = dataset_of(write_records(tmp_path), processor)
    samples = []
    for number in (0, 1, 2):
        record = dataset.records[number]
        images = [Image.open(file).convert("RGB") for file in record.image_files]
        ids = dataset[number]["input_ids"]
        samples.append((ids, images, record.resolve([image.size for image in images])))
    batch = RegionCollator(processor.tokenizer.pad_token_id)([dataset[number] for number in (0, 1, 2)])
    texts = [text_of(dataset, number) for number in (0, 1, 2)]
    expected = processor(
        images=[images for _, images, _ in samples], text=texts, regions=[regions for *_, regions in samples],
        return_tensors="pt", padding=True, padding_side="right",
    )  # fmt: skip
    assert set(batch) == {*expected, "labels"}
    for key, value in expected.items():
        if isinstance(value, torch.Tensor) and key != "labels":  # PaliGemma's own
            torch.testing.assert_close(batch[key], value, rtol=0, atol=0, msg=key)
    for key in ("region_sizes", "region_views"):
        assert batch[key] == expected[key]
    assert [[r.image for r in row] for row in batch["regions"]] == [
        [r.image for r in row] for row in expected["regions"]
    ]


def text_of(dataset: RegionDataset, number: int) -> str:
    from pvit_ext.hosts.transformers.dialogue import render

    return render(dataset.processor, dataset.records[number].data["conversations"], "a record").text


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


def test_records_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    _, processor = with_regions("llava")
    path = write_records(tmp_path)
    with pytest.raises(RecordError, match=r"line 1: .*--model_max_length is 10"):
        dataset_of(path, processor, limit=10)[0]


LATE = [
    ("human", "where ?"),
    ("gpt", "left"),
    ("human", "<image> what is in <region> ?"),
    ("gpt", "a red dog"),
    ("human", "and in <image> and <region> or <image> ?"),
    ("gpt", "no cat"),
    ("human", "which <region> is larger ?"),
    ("gpt", "yes"),
]


@pytest.mark.parametrize("name", ALL_BUT_TWO_SLOW)
def test_images_of_later_turns(name: str, tmp_path: Path) -> None:
    """Their answers are learned all the same, or the record is named: by its place a processor writes an image."""
    _, processor = with_regions(name)
    path = write_records(tmp_path)
    on_images = [[5, 5, 40, 40], {"box": [5, 5, 40, 40], "image": 1}, {"box": [9, 9, 40, 40], "image": 2}]
    record = {"image": ["0.png", "1.png", "2.png"], "regions": on_images, "conversations": as_turns(LATE)}
    path.write_text(json.dumps([record]))
    if name in ("llava_onevision", "paligemma"):  # tiles for one image alone; images before all text
        with pytest.raises(RecordError, match=r"line 1: an <image> comes after an answer, and a \w+ writes"):
            dataset_of(path, processor)[0]
        return
    item = dataset_of(path, processor)[0]
    learned = item["labels"] != IGNORE_INDEX
    assert processor.tokenizer.decode(item["labels"][learned]) == "left </s> a red dog </s> no cat </s> yes </s>"
    assert torch.equal(item["input_ids"][learned], item["labels"][learned])


def test_a_checkpoint_of_llava_is_refused(llava_checkpoint: Path, tmp_path: Path, monkeypatch: Any) -> None:
    data = write_records(tmp_path / "data")
    with pytest.raises(ValueError, match="--host transformers trains checkpoints of transformers' own"):
        run(monkeypatch, flags(llava_checkpoint, data, tmp_path / "out"))


def test_a_frozen_tower_stays_in_eval_mode() -> None:
    model, processor = ZOO["llava"]()
    attach(model, pvit_ext.RegionConfig("osprey", encoder_options=OSPREY), processor=processor)
    model.model.vision_tower.requires_grad_(False)
    assert model.train().training
    assert not model.model.vision_tower.training
    model.model.vision_tower.requires_grad_(True)
    assert model.train().model.vision_tower.training
