"""Training a vision aggregator: the same losses on any number of ranks, also without an image; exact resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST
from tests.hosts.transformers.inputs import OSPREY
from tests.training.runs import of_host
from tests.training.test_distributed import losses, world

__all__ = ["world"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["added", "appended"])
def test_losses_do_not_depend_on_how_a_batch_is_spread(world: dict[str, Any], tmp_path: Path, how: str) -> None:
    records = json.loads(world["DATA"].read_text())
    for record in records[1::2]:
        del record["image"], record["regions"]
        record["conversations"][0]["value"] = "What is in this picture?"
    check_spread(with_records(world, records, tmp_path), tmp_path, "--region_lion_aggregator", how)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TRANSFORMERS_HOST, reason="transformers is too old for its own host")
@pytest.mark.parametrize(("name", "how"), [("llava", "added"), ("llava_next", "appended"), ("qwen2_5_vl", "appended")])
def test_nor_in_models_of_transformers(name: str, how: str, tmp_path: Path) -> None:
    some, own = transformers_world(name, tmp_path)
    check_spread(some, tmp_path, *own, "--region_lion_aggregator", how)


def transformers_world(name: str, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The recipe's variables for a model of transformers, every second record without an image, and its own flags."""
    from tests.training.test_transformers_host import save_stock, write_records

    data = write_records(folder / "records", 9)
    records = json.loads(data.read_text())[:-1]
    for number, record in enumerate(records):
        record["conversations"] = [record["conversations"][0], {"from": "gpt", "value": "a red dog"}]
        record["regions"] = record["regions"][:1]
        if number % 2:
            del record["image"], record["regions"]
            record["conversations"][0]["value"] = "where is a cat ?"
    some = {"MODEL": save_stock(name, folder / "stock"), "IMAGES": data.parent, "DATA": data}
    own = ["--host", "transformers", "--region_modules", "", "--region_encoder", "osprey"]
    return with_records(some, records, folder), [*own, "--region_encoder_options", json.dumps(OSPREY)]


def with_records(world: dict[str, Any], records: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """The recipe's variables with other data; answers have one length, since ranks average their means of tokens."""
    (folder / "data.json").write_text(json.dumps(records))
    return world | {"DATA": folder / "data.json"}


def check_spread(world: dict[str, Any], folder: Path, *flags: str) -> None:
    """Compare losses of one process with those of two, some of whose batches have no image."""
    own = (*flags, "--per_device_train_batch_size")
    alone = losses(world, folder / "alone", 1, "zero2.json", *own, 4)
    assert alone[-1] < alone[0] - 0.3
    spread = {
        "zero2": losses(world, folder / "two", 2, "zero2.json", *own, 1, "--gradient_accumulation_steps", 2),
        "zero3": losses(world, folder / "zero3", 2, "zero3.json", *own, 1, "--gradient_accumulation_steps", 2),
    }
    for name, curve in spread.items():
        assert curve == pytest.approx(alone, abs=5e-3), name


@pytest.fixture(params=["llava", "transformers"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path, Path]:
    """What trains a model of a host, a checkpoint, and records."""
    return of_host(request, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["added", "appended"])
def test_it_trains_is_saved_and_resumes_exactly(
    made: tuple[Any, Path, Path], how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, checkpoint, data = made
    common: dict[str, Any] = {"stage": "align", "region_lion_aggregator": how, "num_train_epochs": 3}
    common |= {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 10}
    whole = host.run(monkeypatch, host.flags(checkpoint, data, tmp_path / "whole", **common))
    steps = whole.state.global_step
    assert steps >= 4
    for folder in (tmp_path / "whole").glob("checkpoint-*"):
        if folder.name == "checkpoint-2":
            (tmp_path / "again").mkdir()
            folder.rename(tmp_path / "again" / folder.name)
    resumed = host.run(monkeypatch, host.flags(checkpoint, data, tmp_path / "again", **common))
    assert resumed.state.global_step == steps
    first, second = (load_file(tmp_path / name / "region_modules.safetensors") for name in ("whole", "again"))
    own = [name for name in first if name.startswith("region_aggregator.")]
    assert any(first[name].any() for name in own if name.startswith("region_aggregator.rows."))
    assert all(torch.equal(first[name], second[name]) for name in first)
