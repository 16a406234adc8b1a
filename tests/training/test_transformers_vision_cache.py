"""A model of transformers trains with a cache of its vision tower as without, whatever its family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.data.cache.key import CacheError
from tests.hosts.transformers.inputs import ALL, ALL_BUT_TWO_SLOW, OSPREY
from tests.training.test_transformers_host import flags, losses, run, write_records
from tests.training.test_vision_cache import fill, refuse_decoding

# Their tower reads the images of a batch as one sequence. A CPU's matrix products may round by how long that is: for
# mistral3 on a machine without AVX-512 the tower's output was 2e-7 off, and a loss 5e-7 of 5.7.
PACKED = ("mistral3", "pixtral")


def same(found: list[float], expected: list[float], name: str) -> bool:
    """To the last bit, or within what a packed tower rounds."""
    return bool(found == (pytest.approx(expected, rel=5e-7) if name in PACKED else expected))


def save(name: str, folder: Path) -> Path:
    for part in ALL[name]():
        part.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ALL_BUT_TWO_SLOW)
def test_the_losses_are_those_of_the_uncached_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [-3, -2] if name == "glm4v" else [-2, -1]
    more = {
        "region_encoder_options": json.dumps({**OSPREY, "layers": layers}), "per_device_train_batch_size": 2,
        "region_jitter": 0.2,
    }  # fmt: skip
    model, data = save(name, tmp_path / "model"), write_records(tmp_path / "data")
    expected = losses(run(monkeypatch, flags(model, data, tmp_path / "a", **more)))
    cache = fill(tmp_path / "cache", flags(model, data, tmp_path / "c", **more))
    refuse_decoding(monkeypatch)
    found = losses(run(monkeypatch, flags(model, data, tmp_path / "b", **more, region_cache=cache)))
    assert same(found, expected, name)
    assert len(set(expected)) > 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "glm4v", "internvl", "gemma3", "mistral3", "llava_next"])
@pytest.mark.parametrize("how", ["added", "appended"])
def test_a_vision_aggregator_reads_the_cache(
    name: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are made of what the tower returns, and stand in no cache."""
    options = json.dumps({**OSPREY, "layers": [-2]})
    more = {"region_lion_aggregator": how, "region_encoder_options": options, "learning_rate": 3e-2}
    more["region_lion_aggregator_depths"] = "0.7,0.4"
    model, data = save(name, tmp_path / "model"), write_records(tmp_path / "data")
    trainer = run(monkeypatch, flags(model, data, tmp_path / "a", **more))
    expected = losses(trainer)
    assert trainer.model.region_aggregator.rows.weight.any()
    cache = fill(tmp_path / "cache", flags(model, data, tmp_path / "c", **more))
    refuse_decoding(monkeypatch)
    found = losses(run(monkeypatch, flags(model, data, tmp_path / "b", **more, region_cache=cache)))
    assert same(found, expected, name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {"bf16": True},
        {"region_encoder": "text", "region_encoder_options": None, "stage": "finetune"},
        {"stage": "finetune"},
        {"dataloader_num_workers": 1, "per_device_train_batch_size": 1},
    ],
)
def test_so_they_are_in_other_runs(changed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = save("llava", tmp_path / "model"), write_records(tmp_path / "data")
    expected = losses(run(monkeypatch, flags(model, data, tmp_path / "a", **changed)))
    cache = fill(tmp_path / "cache", flags(model, data, tmp_path / "c", **changed))
    refuse_decoding(monkeypatch)
    assert losses(run(monkeypatch, flags(model, data, tmp_path / "b", **changed, region_cache=cache))) == expected


def test_a_merger_that_trains_inside_the_tower_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = save("qwen2_5_vl", tmp_path / "model"), write_records(tmp_path / "data")
    cache = fill(tmp_path / "cache", flags(model, data, tmp_path / "c"))
    with pytest.raises(CacheError, match=r"the vision tower trains in this run"):
        run(monkeypatch, flags(model, data, tmp_path / "b", region_cache=cache, stage="finetune"))


def test_onevision_is_refused_for_records_with_several_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = save("llava_onevision", tmp_path / "model"), write_records(tmp_path / "data")
    cache = fill(tmp_path / "cache", flags(model, data, tmp_path / "c"))
    records = json.loads(data.read_text())
    records[0]["image"], turns = ["0.png", "1.png"], records[0]["conversations"]
    turns[0]["value"] = "<image> " + turns[0]["value"]
    data.write_text(json.dumps(records))
    with pytest.raises(CacheError, match=r"data.json.*has several images, which a \w+ prepares differently"):
        run(monkeypatch, flags(model, data, tmp_path / "b", region_cache=cache))
