"""Several processes and Ray fill a cache as one does, also when a worker is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.data.cache import writer
from pvit_ext.data.cache.shard import ShardWork
from tests.data.cache.jobs import contents, fill, job


class DyingWork(ShardWork):
    """Its process is killed in the middle of its second file, once."""

    def __call__(self, batch: Any) -> dict[str, str]:
        once = self.folder.with_name("killed")
        if any(shard.number == 1 for shard in batch) and not once.exists():
            once.touch()
            self.tower.encoder.run_tower = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


@pytest.mark.slow
def test_any_number_of_workers_writes_the_same_bytes(data: Path, regionclip_weights: Path) -> None:
    one = fill(job(data, regionclip_weights, "one"))
    two = fill(job(data, regionclip_weights, "two", workers=2))
    assert len(contents(one.folder)) > 4
    assert contents(one.folder) == contents(two.folder)


@pytest.mark.slow
def test_a_killed_worker_leaves_no_cache_and_the_same_command_goes_on(
    data: Path, regionclip_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = contents(fill(job(data, regionclip_weights, "one")).folder)
    two = job(data, regionclip_weights, "two", workers=2)
    with monkeypatch.context() as patch:
        patch.setattr(writer, "ShardWork", DyingWork)
        with pytest.raises(ChildProcessError, match=r"a worker process died.*start again"):
            fill(two)
    assert not two.out.exists()
    assert any(two.part.glob(".*.tmp.bin"))  # what it was writing
    assert contents(fill(two).folder) == expected


@pytest.mark.slow
def test_ray_writes_the_same_bytes_also_when_a_worker_is_killed(
    data: Path, regionclip_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    expected = contents(fill(job(data, regionclip_weights, "one")).folder)
    monkeypatch.setattr(writer, "ShardWork", DyingWork)
    try:
        found = fill(job(data, regionclip_weights, "two", workers=2, backend="ray"))
    finally:
        ray.shutdown()
    assert found.folder.with_name("killed").exists()
    assert contents(found.folder) == expected
