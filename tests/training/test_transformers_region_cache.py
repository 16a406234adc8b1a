"""A model of transformers trains with a cache of region features as without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.region_caches import changed, losses, make_cache, refuse_tower, write_data
from tests.training.test_transformers_host import flags, run, save_stock


def test_the_losses_are_those_of_the_uncached_run(
    regionclip_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llava, data = save_stock("llava", tmp_path / "llava"), write_data(tmp_path / "data")
    cache = make_cache(tmp_path / "cache", data, regionclip_weights, "float32")
    plain = changed(regionclip_weights, None)
    expected = losses(run(monkeypatch, flags(llava, data, tmp_path / "a", **plain)))
    refuse_tower(monkeypatch)
    cached = changed(regionclip_weights, cache)
    trainer = run(monkeypatch, flags(llava, data, tmp_path / "b", **cached))
    assert losses(trainer) == expected
    assert len(set(expected)) > 3
