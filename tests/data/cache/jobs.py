"""What is to be stored, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pvit_ext.data.cache.key import DTYPES
from pvit_ext.data.cache.region_tower import RegionTowerSource
from pvit_ext.data.cache.store import FeatureCache
from pvit_ext.data.cache.writer import CacheJob, fill_cache, plan_cache
from tests.checkpoints import config

TURNS = [{"from": "human", "value": "<image>\nWhat is <region>?"}, {"from": "gpt", "value": "a dog"}]


def record(name: str, **more: Any) -> dict[str, Any]:
    return {"image": name, "regions": [[5, 5, 40, 40]], "conversations": TURNS, **more}


def job(data: Path, weights: Path, out: str = "cache", **changed: Any) -> CacheJob:
    source = RegionTowerSource.of(config(weights=str(weights)), DTYPES[changed.pop("dtype", "float32")])
    return CacheJob(data, data.parent, data.parent.parent / out, source, **changed)


def fill(job: CacheJob) -> FeatureCache:
    fill_cache(job, plan_cache(job))
    return FeatureCache(job.out)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
