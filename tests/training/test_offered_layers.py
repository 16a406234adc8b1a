"""Training a vision aggregator on a registered tower: with a feature cache as without, and resumed exactly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pvit_ext
from pvit_ext.cli.parser import main
from pvit_ext.regions import image as decoding
from tests.hosts.llava.test_offered_layers import checkpoint
from tests.training.region_caches import losses, write_data
from tests.training.runs import flags, run

PLUGIN = ["--plugin", "tests.pyramid_tower"]
TOWER = "test_layered_pyramid:7"


def words(source: Path, data: Path, out: Path, **changed: Any) -> list[str]:
    options = json.dumps({"hidden": 16, "position_grid": 8})
    values = {"stage": "align", "vision_tower": TOWER, "region_encoder": "osprey", "region_encoder_options": options}
    values |= {"region_lion_aggregator": "added", "logging_steps": 1, "bf16": False, "per_device_train_batch_size": 2}
    return [*PLUGIN, *flags(source, data, out, **(values | changed))]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["added", "appended"])
def test_it_trains_from_a_cache_too_is_saved_and_resumes_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    source, data = checkpoint(tmp_path / "tiny", TOWER), write_data(tmp_path / "data")
    own: dict[str, Any] = {"region_lion_aggregator": how, "max_steps": 6}
    own |= {"save_strategy": "steps", "save_steps": 2, "save_total_limit": 10}
    expected = losses(run(monkeypatch, words(source, data, tmp_path / "whole", **own)))
    assert len(set(expected)) > 3
    cache = tmp_path / "cache"
    assert main(["data", "cache", "--out", str(cache), "--run", *words(source, data, tmp_path / "c", **own)]) == 0
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "again" / "checkpoint-2")
    run(monkeypatch, words(source, data, tmp_path / "again", **own))
    monkeypatch.setattr(decoding, "_upright", no_decoding)
    found = losses(run(monkeypatch, words(source, data, tmp_path / "cached", region_cache=cache, **own)))
    assert found == pytest.approx(expected, rel=1e-5)  # convolutions of one image round otherwise than those of two
    first, second = (load_file(tmp_path / name / "region_modules.safetensors") for name in ("whole", "again"))
    assert any(value.any() for name, value in first.items() if name.startswith("region_aggregator.rows."))
    assert all(torch.equal(first[name], second[name]) for name in first)
    model = pvit_ext.load_pretrained_model(str(tmp_path / "whole"), device="cpu")[1]
    part = model.get_model().region_aggregator
    assert torch.equal(part.rows.weight, first["region_aggregator.rows.weight"])


def no_decoding(*_: Any) -> None:
    raise AssertionError("an image was decoded")
