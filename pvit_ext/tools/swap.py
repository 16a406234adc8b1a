"""Another region encoder in a checkpoint on disk: its weights are copied file by file, and never loaded."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pvit_ext.config import CONFIG_KEY, RegionConfig
from pvit_ext.encoders.base import RegionEncoder
from pvit_ext.files import atomic_folder, copy_file, read_json
from pvit_ext.hosts.llava.classes import region_class_of_config
from pvit_ext.hosts.llava.model import RegionMixin
from pvit_ext.tokens.projector import RegionProjector
from pvit_ext.tokens.region_modules import (
    create_region_modules,
    encoder_is_embedded,
    finish_region_encoder,
    replace_region_modules,
    same_encoder,
)
from pvit_ext.tokens.serialization import fill_region_modules, region_state
from pvit_ext.tools.shards import Checkpoint, Shard, nbytes, open_checkpoint, save_tensors, write_index

logger = logging.getLogger(__name__)


class RegionShell:
    """A LLaVA model reduced to its region modules: all that the code which makes and fills them asks of a model.

    Args:
        config: LLaVA's config, in which :func:`~pvit_ext.tokens.region_modules.replace_region_modules` writes.
        origin: the checkpoint, for messages.

    Raises:
        ValueError: when the config is not that of a LLaVA.
    """

    region_encoder: RegionEncoder | None = None
    region_projector: RegionProjector | None = None
    region_config: Any = RegionMixin.region_config

    def __init__(self, config: Any, origin: Path) -> None:
        from transformers import CLIPVisionConfig

        self.config = config
        self.base_model_prefix: str = region_class_of_config(config).base_model_prefix
        self.lm_head = SimpleNamespace(weight=torch.empty(0))  # float32: exact for whatever dtype is asked for later
        if (tower := getattr(config, "mm_vision_tower", None)) is None:
            raise ValueError(f"{origin} is a language model without an image tower, not a LLaVA checkpoint")
        self._tower = SimpleNamespace(config=CLIPVisionConfig.from_pretrained(tower))

    def get_model(self) -> RegionShell:
        """The inner model."""
        return self

    def get_vision_tower(self) -> Any:
        """The image tower's config."""
        return self._tower

    def state(self) -> dict[str, Tensor]:
        """Region tensors by their names in a checkpoint."""
        return {f"{self.base_model_prefix}.{name}": value for name, value in region_state(self).items()}


def swap_encoder(checkpoint: str | os.PathLike[str], config: RegionConfig, out: str | os.PathLike[str]) -> None:
    """Write a checkpoint with another region encoder; what loads is what :func:`~pvit_ext.attach` gives a loaded model.

    Language model, image tower and mm_projector stay bit for bit: files without region tensors are copied and compared
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
    from transformers import AutoConfig

    source = open_checkpoint(checkpoint)
    shell = RegionShell(AutoConfig.from_pretrained(source.folder), source.folder)
    _load_old_modules(shell, source, config)
    replace_region_modules(shell, config, source.folder)
    values = {**read_json(source.folder / "config.json"), CONFIG_KEY: config.to_dict()}
    _write(source, Path(out), shell, values)


def _load_old_modules(shell: RegionShell, source: Checkpoint, config: RegionConfig) -> None:
    """The projector, of which parts may stay, and the encoder where the config names the same."""
    if (old := shell.region_config) is None:
        return
    with torch.random.fork_rng(devices=[]):  # the new modules' random values are those that attach() draws
        create_region_modules(shell)
    prefix = f"{shell.base_model_prefix}."
    state = {name.removeprefix(prefix): value for name, value in source.read(_region_names(shell, source.tensors))}
    fill_region_modules(shell, state, source.folder)
    if same_encoder(old, config) and not encoder_is_embedded(old):
        finish_region_encoder(shell, source.folder)


def _write(source: Checkpoint, out: Path, shell: RegionShell, values: dict[str, Any]) -> None:
    from tqdm import tqdm

    state, others = shell.state(), source.other_files()
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
            if kept := _write_shard(shard, folder / name, shell, bar):
                files[name] = kept
        if state:  # an encoder that writes text has none
            files[regions] = state
            save_tensors(folder / regions, state)
        write_index(folder, source.layout, files, source.metadata)
        (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
        logger.info("%s: %d region tensors written", regions, len(state))


def _write_shard(shard: Shard, target: Path, shell: RegionShell, bar: Any) -> dict[str, Tensor]:
    """Copy a shard without its region tensors, unless it has no others; what was copied."""
    regions = set(_region_names(shell, shard.entries))
    kept = {name: entry for name, entry in shard.entries.items() if name not in regions}
    if not regions:
        copy_file(shard.path, target, bar.update)
        logger.info("%s: copied, sha256 compared", target.name)
    elif kept:
        shard.write(target, list(kept))
        logger.info("%s: %d tensors copied, the sha256 of each compared", target.name, len(kept))
    return kept


def _region_names(shell: RegionShell, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(f"{shell.base_model_prefix}.region_")]
