"""Training with a cache of region features has the losses of training without, and starts with no other cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.data.cache.key import CacheError
from tests.checkpoints import OPTIONS
from tests.training import runs
from tests.training.region_caches import changed, losses, make_cache, refuse_tower, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def caches(data: Path, regionclip_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("caches")
    return {dtype: make_cache(folder / dtype, data, regionclip_weights, dtype) for dtype in ("float32", "bfloat16")}


@pytest.mark.parametrize(("dtype", "workers"), [pytest.param("float32", 1, marks=pytest.mark.slow), ("bfloat16", 0)])
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
