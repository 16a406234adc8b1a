"""Training with a cache of region features has the losses of training without, and starts with no other cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.cli.parser import main
from pvit_ext.data.cache.key import CacheError
from pvit_ext.encoders.own_tower import TowerEncoder
from pvit_ext.encoders.regionclip.encoder import RegionCLIP
from tests.checkpoints import OPTIONS
from tests.samples import write_training_data
from tests.training import runs
from tests.training.test_transformers_host import flags as transformers_flags
from tests.training.test_transformers_host import run as run_transformers
from tests.training.test_transformers_host import save_stock


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight records with regions, and one of text alone."""
    path = write_training_data(tmp_path_factory.mktemp("data"))
    turns = [{"from": "human", "value": "What is this?"}, {"from": "gpt", "value": "seven red"}]
    path.write_text(json.dumps([*json.loads(path.read_text()), {"conversations": turns}]))
    return path


@pytest.fixture(scope="module")
def caches(data: Path, regionclip_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("caches")
    for dtype in ("float32", "bfloat16"):
        words = ["data", "cache", str(data), "--image-folder", str(data.parent), "--out", str(folder / dtype)]
        words += ["--weights", str(regionclip_weights), "--encoder-options", json.dumps(OPTIONS), "--dtype", dtype]
        assert main(words) == 0
    return {dtype: folder / dtype for dtype in ("float32", "bfloat16")}


@pytest.fixture(scope="module")
def transformers_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stock("llava", tmp_path_factory.mktemp("llava"))


def changed(weights: Path, cache: Path | None, **more: Any) -> dict[str, Any]:
    values = {
        "stage": "align", "region_weights": weights, "region_encoder_options": json.dumps(OPTIONS), "max_steps": 9,
        "per_device_train_batch_size": 1, "region_jitter": 0.2, "logging_steps": 1, "region_encoder": "regionclip",
    }  # fmt: skip
    return values | ({} if cache is None else {"region_cache": cache}) | more


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def refuse_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images are neither resized for the tower nor go through it, nor does anything in a batch without regions."""

    def fail(*_: Any) -> None:
        raise AssertionError("the tower's pixels were made")

    monkeypatch.setattr(TowerEncoder, "preprocess", fail)
    monkeypatch.setattr(RegionCLIP, "run_tower", fail)


@pytest.mark.parametrize(("dtype", "workers"), [("float32", 1), ("bfloat16", 0)])
def test_llava_has_the_losses_of_the_uncached_run(
    llava_checkpoint: Path, data: Path, regionclip_weights: Path, caches: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, dtype: str, workers: int,
) -> None:  # fmt: skip
    more = {"bf16": dtype == "bfloat16", "dataloader_num_workers": workers}
    plain = changed(regionclip_weights, None, **more)
    expected = losses(runs.run(monkeypatch, runs.flags(llava_checkpoint, data, tmp_path / "a", **plain)))
    refuse_tower(monkeypatch)
    cached = changed(regionclip_weights, caches[dtype], **more)
    assert losses(runs.run(monkeypatch, runs.flags(llava_checkpoint, data, tmp_path / "b", **cached))) == expected
    assert len(set(expected)) > 3


def test_the_transformers_host_has_them_too(
    transformers_llava: Path, data: Path, regionclip_weights: Path, caches: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    plain = changed(regionclip_weights, None)
    expected = losses(
        run_transformers(monkeypatch, transformers_flags(transformers_llava, data, tmp_path / "a", **plain))
    )
    refuse_tower(monkeypatch)
    cached = changed(regionclip_weights, caches["float32"])
    trainer = run_transformers(monkeypatch, transformers_flags(transformers_llava, data, tmp_path / "b", **cached))
    assert losses(trainer) == expected
    assert len(set(expected)) > 3


def test_another_cache_ends_a_run_before_its_first_step(
    llava_checkpoint: Path, data: Path, regionclip_weights: Path, caches: dict[str, Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def start(cache: Path, **more: Any) -> None:
        given = changed(regionclip_weights, cache, **more)
        runs.run(monkeypatch, runs.flags(llava_checkpoint, data, tmp_path / "out", **given))

    with pytest.raises(
        CacheError, match=r"not of this run's encoder: its maps are bfloat16, the tower computes in float32"
    ):
        start(caches["bfloat16"])
    with pytest.raises(CacheError, match=r"another preprocessing: longest_edge was 64, is 96"):
        start(caches["float32"], region_encoder_options=json.dumps({**OPTIONS, "longest_edge": 96}))
    with pytest.raises(CacheError, match=r"is no cache of region features"):
        start(tmp_path / "none")
    with pytest.raises(CacheError, match=r"'osprey' has no tower of its own"):
        start(caches["float32"], region_encoder="osprey", region_weights="", region_encoder_options="{}")
