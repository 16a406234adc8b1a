"""A cache of several towers: a folder with one for each, which appears when all of them are complete."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pvit_ext.data.cache.key import CacheError
from pvit_ext.data.cache.store import ABOUT, FeatureCache
from pvit_ext.data.cache.writer import PLAN, CacheJob, Plan, check_same, fill_cache
from pvit_ext.files import sync

REGION_TOWER, VISION_TOWER = "region_tower", "vision_tower"


def cache_folders(folder: Path) -> list[Path]:
    """The folders of a cache: itself, or those of its parts."""
    if (folder / ABOUT).is_file():
        return [folder]
    parts = [folder / name for name in (REGION_TOWER, VISION_TOWER)]
    return [part for part in parts if (part / ABOUT).is_file()] or [folder]


def part_folder(out: Path) -> Path:
    """What an interrupted call leaves."""
    return out.with_name(out.name + ".part")


def fill_parts(out: Path, jobs: Sequence[tuple[CacheJob, Plan]]) -> None:
    """Fill the parts of a cache; its folder appears under its name when they are complete.

    Args:
        out: folder to make.
        jobs: with folders in :func:`part_folder` as theirs, and their plans.

    Raises:
        CacheError: when something else is there already, or the disk is too small.
    """
    if out.exists():
        raise CacheError(f"{out} exists: name a new folder, nothing is overwritten")
    if (part_folder(out) / PLAN).exists():
        raise CacheError(f"{part_folder(out)} is half of a cache made without --run: remove it, or name another --out")
    for job, plan in jobs:
        if job.out.exists():
            check_same(job, plan, FeatureCache(job.out))
        else:
            fill_cache(job, plan)
    part_folder(out).replace(out)
    sync(out.parent)
