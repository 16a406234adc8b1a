"""Another region encoder in a checkpoint on disk: its weights are copied file by file, and never loaded."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvit_ext.config import CONFIG_KEY, RegionConfig, regions_from_json, regions_to_json
from pvit_ext.files import atomic_folder, copy_file, read_json
from pvit_ext.hosts.checkpoint_kind import find_kind
from pvit_ext.hosts.llava.classes import load_config, region_class_of_config
from pvit_ext.hosts.llava.vision_tower import registered_tower
from pvit_ext.tokens.region_module import RegionModule, same_encoder, successor
from pvit_ext.tools.shards import Checkpoint, Shard, nbytes, open_checkpoint, save_tensors, write_index

logger = logging.getLogger(__name__)


def swap_encoder(checkpoint: str | os.PathLike[str], config: RegionConfig, out: str | os.PathLike[str]) -> None:
    """Write a checkpoint with another region encoder; what loads is what :func:`~pvit_ext.attach` gives a loaded model.

    Language model, vision tower and mm_projector stay bit for bit: files without region tensors are copied and compared
    by SHA-256, in others each tensor is. Nothing is written unless the new encoder can be built. Memory holds the
    region modules, and one shard where region tensors lie among others in a ``.bin`` file.

    Args:
        checkpoint: folder of a LLaVA checkpoint, with or without regions.
        config: which encoder, with which weights.
        out: a new folder.

    Raises:
        ValueError: when the checkpoint is no LLaVA, or a file of it is damaged.
        OSError: when files are missing, ``out`` is taken, or the disk is full.
    """
    if Path(checkpoint).is_dir() and (kind := find_kind(str(checkpoint))).base is not None:
        raise ValueError(f"{kind}. Swap takes a whole checkpoint: `pvit-ext merge {checkpoint} --out DIR` writes one")
    source = open_checkpoint(checkpoint)
    host = load_config(str(source.folder))
    prefix, tower = checkpoint_prefix(host), vision_tower_config(host, source.folder)
    old = _old_module(source, host, prefix, tower, config)
    new = successor(old, config, host.hidden_size, tower, checkpoint=source.folder)
    values = {**read_json(source.folder / "config.json"), CONFIG_KEY: regions_to_json(new.config, new.facts)}
    _write(source, Path(out), prefix, new.tensors(), values)


def checkpoint_prefix(host: Any) -> str:
    """What stands before the names of the inner model's tensors in a LLaVA checkpoint, such as ``model.``.

    Raises:
        ValueError: when the config is not that of a LLaVA.
    """
    return f"{region_class_of_config(host).base_model_prefix}."


def vision_tower_config(host: Any, origin: Path) -> Any:
    """Config of the vision tower that a LLaVA config names.

    Args:
        host: LLaVA's config.
        origin: the checkpoint, for messages.

    Raises:
        ValueError: when it names none.
    """
    from transformers import CLIPVisionConfig

    if (tower := getattr(host, "mm_vision_tower", None)) is None:
        raise ValueError(f"{origin} is a language model without a vision tower, not a LLaVA checkpoint")
    registered = registered_tower(host)
    return CLIPVisionConfig.from_pretrained(tower) if registered is None else registered.config


def _old_module(source: Checkpoint, host: Any, prefix: str, tower: Any, config: RegionConfig) -> RegionModule | None:
    """The projector, of which parts may stay, and the encoder where the config names the same."""
    if (values := getattr(host, CONFIG_KEY, None)) is None:
        return None
    chosen, facts = regions_from_json(values)
    with torch.random.fork_rng(devices=[]):  # the new modules' random values are those that attach() draws
        old = RegionModule(chosen, host.hidden_size, tower, facts)
        names = _region_names(prefix, source.tensors)
        old.fill({name.removeprefix(prefix): value for name, value in source.read(names)}, source.folder)
        if same_encoder(chosen, config) and old.region_encoder is None:
            old.read_encoder(tower, source.folder)
    return old


def _write(source: Checkpoint, out: Path, prefix: str, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    from tqdm import tqdm

    state, others = {prefix + name: value for name, value in tensors.items()}, source.other_files()
    regions, files = "-regions".join(source.layout), {}
    copied = [*others, *(shard.path for shard in source.shards)]
    size = sum(path.stat().st_size for path in copied) + sum(map(nbytes, state.values()))
    with atomic_folder(out, size) as folder, tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar:
        for path in others:
            copy_file(path, folder / path.name, bar.update)
        for number, shard in enumerate(source.shards, start=1):
            name = shard.path.name
            if name == "".join(source.layout):  # by this name transformers would not look at the index
                name = name.replace(".", f"-{number:05}-of-{len(source.shards):05}.")
            if kept := _write_shard(shard, folder / name, prefix, bar):
                files[name] = kept
        if state:  # an encoder that writes text has none
            files[regions] = state
            save_tensors(folder / regions, state)
        write_index(folder, source.layout, files, source.metadata)
        (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
        logger.info("%s: %d region tensors written", regions, len(state))


def _write_shard(shard: Shard, target: Path, prefix: str, bar: Any) -> dict[str, Tensor]:
    """Copy a shard without its region tensors, unless it has no others; what was copied."""
    regions = set(_region_names(prefix, shard.entries))
    kept = {name: entry for name, entry in shard.entries.items() if name not in regions}
    if not regions:
        copy_file(shard.path, target, bar.update)
        logger.info("%s: copied, sha256 compared", target.name)
    elif kept:
        shard.write(target, list(kept))
        logger.info("%s: %d tensors copied, the sha256 of each compared", target.name, len(kept))
    return kept


def _region_names(prefix: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(f"{prefix}region_")]
