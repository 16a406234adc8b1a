"""Filling a cache: in ``DIR.part``, which becomes ``DIR`` when it is complete; until then it is resumed."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pvit_ext.data.bad_records import BadRecords
from pvit_ext.data.cache.images import all_images, images_with_regions
from pvit_ext.data.cache.key import CacheError, differences
from pvit_ext.data.cache.plan import Plan, make_plan
from pvit_ext.data.cache.shard import Shard, ShardWork, is_done, list_file, read_list
from pvit_ext.data.cache.source import TowerSource
from pvit_ext.data.cache.store import ABOUT, IMAGES, FeatureCache
from pvit_ext.data.map_step import map_in_order
from pvit_ext.data.records import BadRecord, load_records
from pvit_ext.files import atomic_write, lock, read_json, sha256_file, sync

PLAN, _LOCK = "plan.json", "lock"


@dataclass(frozen=True)
class CacheJob:
    """What to store, and how.

    Args:
        file: records.
        image_folder: that their images are in.
        out: folder to make.
        source: of the tower.
        device: that the tower runs on.
        threads: of torch in each worker.
        workers: processes.
        backend: see :func:`~pvit_ext.data.map_step.map_in_order`.
        max_bad_records: records and images to survive.
    """

    file: Path
    image_folder: Path
    out: Path
    source: TowerSource
    device: str = "cpu"
    threads: int = 1
    workers: int = 1
    backend: str = "local"
    max_bad_records: int = 0

    @property
    def part(self) -> Path:
        """What an interrupted call leaves."""
        return self.out.with_name(self.out.name + ".part")


def plan_cache(job: CacheJob) -> Plan:
    """What a cache will hold; no weights are read.

    Raises:
        RecordError: for bad records.
        CacheError: when no image has a region, or too many cannot be read.
    """
    bad = BadRecords(job.max_bad_records)
    records = load_records(job.file, job.image_folder, bad)
    every = (records[number] for number in range(len(records)))
    paths = all_images(every) if job.source.all_images else images_with_regions(every)
    if not paths:
        raise CacheError(f"{job.file} has no region ({records.summary}): there is nothing to store")
    plan = make_plan(job.source.outline(), paths, "images" if job.source.all_images else "images with regions")
    bad.add(*(BadRecord(name, f"{job.file.name}: image {problem}") for name, problem in plan.problems.items()))
    return plan


def fill_cache(job: CacheJob, plan: Plan) -> None:
    """Make the maps of a plan; the folder appears under its name when it is complete.

    Raises:
        CacheError: when something else is there already, or the disk is too small.
        RecordError: when too many images cannot be read.
    """
    if job.out.exists():
        raise CacheError(f"{job.out} exists: name a new folder, nothing is overwritten")
    work = ShardWork(job.source, job.device, job.threads, job.part)
    key = work.tower.key()
    shards = [Shard(number, [(name, plan.paths[name]) for name in names]) for number, names in enumerate(plan.shards())]
    job.part.mkdir(parents=True, exist_ok=True)
    with _alone(job.part):
        _begin(job.part, {"key": key, "shards": [[name for name, _ in shard.images] for shard in shards]})
        missing = [shard for shard in shards if not is_done(job.part, shard)]
        _check_room(job.part, sum(plan.sizes[name] for shard in missing for name, _ in shard.images))
        try:
            _make(job, work, missing, len(shards))
            _finish(job, plan, key, len(shards))
        except ChildProcessError:  # an OSError by its class, and nothing was wrong with the disk
            raise
        except OSError as error:
            raise CacheError(
                f"writing to {job.part} failed ({error}): what is complete stays there, once that is mended the same "
                "command goes on with it"
            ) from error


def check_same(job: CacheJob, plan: Plan, found: FeatureCache) -> None:
    """Refuse a complete cache that is not the one of a plan.

    Raises:
        CacheError: saying in what they differ.
    """
    reasons = differences(found.key, job.source.open(job.device).key())
    if not reasons and found.names != [*plan.sizes, *plan.problems]:
        reasons = ["it has other images"]
    if reasons:
        raise CacheError(_other(found.folder, reasons))
    found.check_images(str(job.file), str(job.image_folder), ())


def _make(job: CacheJob, work: ShardWork, missing: list[Shard], total: int) -> None:
    from tqdm import tqdm

    threads = torch.get_num_threads()
    try:
        with tqdm(total=total, initial=total - len(missing), unit=" files", desc="maps") as bar:
            for _ in map_in_order(work, ([shard] for shard in missing), job.workers, job.backend):
                bar.update()
    finally:
        torch.set_num_threads(threads)


def _begin(part: Path, wanted: dict[str, Any]) -> None:
    """Take over a folder that a call with the same plan has left, or begin it."""
    path = part / PLAN
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(wanted), encoding="utf-8")
        return
    found = read_json(path)
    if found != wanted:
        reasons = differences(found["key"], wanted["key"]) or ["it has other images"]
        raise CacheError(_other(part, reasons))


def _other(folder: Path, reasons: Sequence[str]) -> str:
    return f"{folder} is half of another cache ({'; '.join(reasons)}): remove it, or name another folder with --out"


def _finish(job: CacheJob, plan: Plan, key: dict[str, Any], shards: int) -> None:
    """Write what is in the cache, then give it its name."""
    entries = [
        {**entry, "shard": number} for number in range(shards) for entry in read_list(list_file(job.part, number))
    ]
    entries += [{"name": name, "problem": problem} for name, problem in plan.problems.items()]
    bad = [(entry["name"], entry["problem"]) for entry in entries if "problem" in entry]
    BadRecords(job.max_bad_records).add(*(BadRecord(name, f"image {name}: {problem}") for name, problem in bad))
    with atomic_write(job.part / IMAGES) as temporary:
        lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries]
        temporary.write_text("".join(lines), encoding="utf-8")
    made = {"torch": torch.__version__, "device": job.device, "machine": platform.machine(), "threads": job.threads}
    about = {
        "key": key, "images": len(entries), "shards": shards, "data": sha256_file(job.file), "made": made,
        "all_images": job.source.all_images,
    }  # fmt: skip
    with atomic_write(job.part / ABOUT) as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    for path in (*(list_file(job.part, number) for number in range(shards)), job.part / PLAN, job.part / _LOCK):
        path.unlink()
    for path in job.part.glob(".*"):  # of a process that was killed
        path.unlink()
    job.part.replace(job.out)
    sync(job.out.parent)


def _check_room(folder: Path, size: int) -> None:
    if size > (free := shutil.disk_usage(folder).free):
        raise CacheError(
            f"{folder} needs {size:,} bytes more, {free:,} are free there: make room, or name another place"
        )


@contextmanager
def _alone(part: Path) -> Iterator[None]:
    """One process at a time fills a folder."""
    with open(part / _LOCK, "a") as stream:
        if not lock(stream):
            raise CacheError(f"{part} is being filled by another process: let it end")
        yield
