"""Another region encoder in a checkpoint on disk: its weights are copied file by file, and never loaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvit_ext.adapters.lion.feed_forward import CHILD, names_in_files
from pvit_ext.config import RegionConfig, regions_to_json
from pvit_ext.files import atomic_folder, check_new_folder, copy_file
from pvit_ext.hosts.checkpoint_kind import find_kind
from pvit_ext.hosts.find import host_of_checkpoint
from pvit_ext.hosts.stored import StoredModel
from pvit_ext.tokens.region_module import RegionModule, same_encoder
from pvit_ext.tokens.successor import same_features, successor
from pvit_ext.tools.shards import Checkpoint, Shard, nbytes, open_checkpoint, save_tensors, write_index

logger = logging.getLogger(__name__)


def swap_encoder(checkpoint: str | os.PathLike[str], config: RegionConfig, out: str | os.PathLike[str]) -> None:
    """Write a checkpoint with another region encoder; it loads as the model that :func:`~pvit_ext.attach` would give.

    Language model, vision tower and image projector stay bit for bit: files without region tensors are copied and
    compared by SHA-256, in others each tensor is. Nothing is written unless the new encoder can be built. Memory holds
    the region modules, and one shard where region tensors lie among others in a ``.bin`` file.

    Args:
        checkpoint: folder of a checkpoint of LLaVA or of transformers, with or without regions.
        config: which encoder, with which weights.
        out: a new folder.

    Raises:
        ValueError: when no host reads the checkpoint, or a file of it is damaged.
        OSError: when files are missing, ``out`` is taken, or the disk is full.
    """
    check_new_folder(out)
    kind = find_kind(str(checkpoint)) if Path(checkpoint).is_dir() else None
    if kind is not None and kind.base is not None:
        raise ValueError(f"{kind}. Swap takes a whole checkpoint: `pvit-ext merge {checkpoint} --out DIR` writes one")
    source = open_checkpoint(checkpoint)
    host = host_of_checkpoint(find_kind(str(source.folder)))
    stored = host.stored(source.folder)
    names = _Names(stored.prefix, names_in_files(source.tensors))
    old = _old_module(source, stored, config, names)
    blocks = len(names.layers)
    new = successor(old, config, stored.hidden_size, stored.tower_config, checkpoint=source.folder, blocks=blocks)
    _say_new_encoder(old, new)
    name_regions = partial(host.add_regions, regions=regions_to_json(new.config, new.facts))
    _write(source, Path(out), names, new.tensors(), name_regions)
    if not _has_learned(old, new):
        logger.warning("untrained: train stage 1, then 2, before you ask")


@dataclass(frozen=True)
class _Names:
    """Names of region tensors, which a region file and a checkpoint spell differently.

    Args:
        prefix: of those of region modules in a checkpoint.
        layers: names of the feed-forward layers beside which adapters stand.
    """

    prefix: str
    layers: list[str]

    def in_region_file(self, name: str) -> str | None:
        """Name in a region file of a checkpoint's tensor; None for a tensor of something else."""
        layer, found, rest = name.partition(f".{CHILD}.")
        if found:
            return f"{CHILD}.{self.layers.index(layer)}.{rest}"
        return name.removeprefix(self.prefix) if name.startswith(f"{self.prefix}region_") else None

    def in_checkpoint(self, name: str) -> str:
        """The inverse."""
        if not name.startswith(f"{CHILD}."):
            return self.prefix + name
        _, block, rest = name.split(".", 2)
        return f"{self.layers[int(block)]}.{CHILD}.{rest}"

    def of_regions(self, names: Iterable[str]) -> dict[str, str]:
        """The region tensors among a checkpoint's, by their names in it."""
        found = {name: self.in_region_file(name) for name in names}
        return {name: other for name, other in found.items() if other is not None}


def _old_module(source: Checkpoint, stored: StoredModel, config: RegionConfig, names: _Names) -> RegionModule | None:
    """The old region module: parts of its projector may stay, and its encoder where the config names the same."""
    if stored.regions is None:
        return None
    chosen, facts = stored.regions
    tower = stored.tower_config
    with torch.random.fork_rng(devices=[]):  # the new modules' random values are those that attach() draws
        old = RegionModule(chosen, stored.hidden_size, tower, facts, blocks=len(names.layers))
        regions = names.of_regions(source.tensors)
        old.fill({regions[name]: value for name, value in source.read(list(regions))}, source.folder)
        if same_encoder(chosen, config.continuing(chosen)) and old.region_encoder is None:
            old.read_encoder(tower, source.folder)
    return old


def _say_new_encoder(old: RegionModule | None, new: RegionModule) -> None:
    """Log how an encoder of another name begins; of one that stays or starts anew :func:`successor` has told."""
    encoder, config = new.region_encoder, new.config
    if encoder is None or (old is not None and old.config.encoder == config.encoder):
        return
    count = sum(parameter.numel() for parameter in encoder.parameters())
    origin = f"those of {config.weights}" if config.weights else "random"
    details = f": its {count:,} parameters are {origin}" if count else ""
    logger.info("region encoder %r starts anew%s", config.encoder, details)


def _has_learned(old: RegionModule | None, new: RegionModule) -> bool:
    """Whether region tokens are made as the old module made them, by parts that may have been trained."""
    if new.region_projector.features is None:  # text or pixels show its regions
        return True
    if old is None or not same_features(old, new):
        return False
    before, after = (module.region_projector.state_dict() for module in (old, new))
    names = [name for name in after if name.startswith(("features.", "delimiters."))]
    return all(name in before and torch.equal(before[name], after[name]) for name in names)


def _write(
    source: Checkpoint, out: Path, names: _Names, tensors: dict[str, Tensor], name_regions: Callable[[Path], None]
) -> None:
    from tqdm import tqdm

    state, others = {names.in_checkpoint(name): value for name, value in tensors.items()}, source.other_files()
    regions, files = "-regions".join(source.layout), {}
    copied = [*others, *(shard.path for shard in source.shards)]
    size = sum(path.stat().st_size for path in copied) + sum(map(nbytes, state.values()))
    with atomic_folder(out, size) as folder, tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar:
        for path in others:
            copy_file(path, folder / path.name, bar.update)
        copy_file(source.folder / "config.json", folder / "config.json")
        name_regions(folder)  # before the weights: it may find no room for <region>
        for number, shard in enumerate(source.shards, start=1):
            name = shard.path.name
            if name == "".join(source.layout):  # by this name transformers would not look at the index
                name = name.replace(".", f"-{number:05}-of-{len(source.shards):05}.")
            if kept := _write_shard(shard, folder / name, names, bar):
                files[name] = kept
        if state:  # an encoder that writes text has none
            files[regions] = state
            save_tensors(folder / regions, state)
        write_index(folder, source.layout, files, source.metadata)
        logger.info("%s: %d region tensors written", regions, len(state))


def _write_shard(shard: Shard, target: Path, names: _Names, bar: Any) -> dict[str, Tensor]:
    """Copy a shard without its region tensors, unless it has no others; return what was copied."""
    regions = names.of_regions(shard.entries)
    kept = {name: entry for name, entry in shard.entries.items() if name not in regions}
    if not regions:
        copy_file(shard.path, target, bar.update)
        logger.info("%s: copied, sha256 compared", target.name)
    elif kept:
        shard.write(target, list(kept))
        logger.info("%s: %d tensors copied, the sha256 of each compared", target.name, len(kept))
    return kept
