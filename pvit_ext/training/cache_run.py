"""``pvit-ext data cache --run FLAGS``: the frozen towers of a run, from the run's own command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from pvit_ext.data.cache.key import CacheError
from pvit_ext.data.cache.parts import REGION_TOWER, VISION_TOWER, part_folder
from pvit_ext.data.cache.region_tower import RegionTower
from pvit_ext.data.cache.source import StoredTower
from pvit_ext.data.cache.writer import CacheJob
from pvit_ext.encoders.own_tower import TowerEncoder
from pvit_ext.plugins import take_plugins
from pvit_ext.training.arguments import with_config_file
from pvit_ext.training.contract import Arguments, TrainingHost
from pvit_ext.training.host import take_host
from pvit_ext.training.region_cache import host_tower, is_half
from pvit_ext.training.stages import freeze_for_stage

_LARGE = 1 << 16
_NOT_FOR_IT = ("--deepspeed", "--region_cache")


@dataclass(frozen=True)
class Run:
    """A run that has not begun.

    Args:
        host: of its model.
        args: the run's flags.
        model, processor: loaded, but the language model's tensors are empty.
    """

    host: TrainingHost
    args: Arguments
    model: Any
    processor: Any

    @property
    def encoder(self) -> Any:
        """The region encoder."""
        return self.model.region_module.region_encoder


@dataclass(frozen=True)
class RunTowerSource:
    """See :class:`~pvit_ext.data.cache.source.TowerSource`.

    Args:
        words: of the command line.
        part: which tower.
    """

    words: tuple[str, ...]
    part: str

    @property
    def all_images(self) -> bool:
        """Every image becomes image tokens."""
        return self.part == VISION_TOWER

    def outline(self) -> StoredTower:
        """The same as :meth:`open`."""
        return self.open("cpu")

    def open(self, device: str) -> StoredTower:
        """The tower as the run has it."""
        run = load_run(self.words)
        if self.part == VISION_TOWER:
            run.model.to(device)
            tower = host_tower(run.host, run.args, run.model, run.processor)
            if tower.half:
                tower.seen.module.half()
            return tower
        dtype = torch.float16 if is_half(run.args.training) else next(run.encoder.parameters()).dtype
        run.encoder.to(device=device, dtype=dtype).eval()
        return RegionTower(run.encoder, dtype, device)


@cache
def load_run(words: tuple[str, ...]) -> Run:
    """Load the model of a run, once in a process.

    Args:
        words: of the command line.
    """
    from pvit_ext.training.run import parse

    deepspeed = "--deepspeed" in words
    host, rest = take_host(take_plugins(_without(words, _NOT_FOR_IT)))
    args = parse(host, rest)
    with host.running():
        model, processor = host.load_model(args)
    args.training.deepspeed = deepspeed
    freeze_for_stage(model, args.training.stage)
    _empty_language_model(model, host)
    model.eval()
    return Run(host, args, model, processor)


def jobs_of_run(out: Path, words: Sequence[str], device: str, threads: int, **options: Any) -> list[CacheJob]:
    """The jobs that store the outputs of a run's frozen towers, one for each tower.

    Args:
        out: folder to make.
        words: flags of the run.
        device: device of the towers.
        threads: torch's threads in each worker.
        options: ``workers``, ``backend`` and ``max_bad_records`` of :class:`~pvit_ext.data.cache.writer.CacheJob`.

    Raises:
        CacheError: when the run has no frozen tower or no images.
    """
    given = tuple(with_config_file(list(words)))
    run = load_run(given)
    data = run.args.data
    if not data.read[0].summary.images:
        raise CacheError(f"--run: {data.data_path} names no image, so there is nothing to store")
    return [
        CacheJob(
            file=Path(data.data_path),
            image_folder=Path(data.image_folder),
            out=part_folder(out) / part,
            source=RunTowerSource(given, part),
            device=device,
            threads=threads,
            **options,
        )
        for part in _parts(run)
    ]


def _parts(run: Run) -> list[str]:
    """The towers of a run that can be stored.

    Raises:
        CacheError: when none can, with the reason.
    """
    parts = [REGION_TOWER] if isinstance(run.encoder, TowerEncoder) and run.encoder.frozen else []
    try:
        host_tower(run.host, run.args, run.model, run.processor).check(run.encoder, run.args.data.read[0])
        parts.append(VISION_TOWER)
    except CacheError as error:
        if not parts:
            raise
        print(f"only the region encoder's tower is stored: {error}", flush=True)
    return parts


def _without(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Words without some flags and their values."""
    drop = {index + more for index, word in enumerate(words) if word in flags for more in (0, 1)}
    return [word for index, word in enumerate(words) if index not in drop]


def _empty_language_model(model: Any, host: TrainingHost) -> None:
    """Free large tensors that no tower needs: all but those of towers, projectors and the region encoder."""
    kept = [*host.parts(model).values(), model.region_module.region_encoder]
    known = {id(parameter) for module in kept for parameter in module.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in known and parameter.numel() >= _LARGE:
            parameter.data = parameter.data.new_empty(0)
