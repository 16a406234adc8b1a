"""Checkpoints of the original PVIT as checkpoints of LLaVA with regions.

Facts of the original (github.com/PVIT-official/PVIT, arXiv 2308.13437): its region projector is
``model.prompt_projector``, its box embedding ``model.bbox_fc``; ``<Region>`` and ``</Region>`` are two more rows of the
vocabulary, whose ids its config names. It is published as a delta: each of its tensors that LLaMA has too is the
difference from LLaMA's, and the rows by which the vocabulary grew stand as they are.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvit_ext.config import CONFIG_KEY, RegionConfig, regions_to_json
from pvit_ext.encoders.weights import differences
from pvit_ext.files import atomic_folder, check_new_folder, copy_file, read_json
from pvit_ext.hosts.llava.classes import LlavaLlamaForCausalLM
from pvit_ext.hosts.llava.stored import checkpoint_prefix, tower_config
from pvit_ext.tokens.successor import successor
from pvit_ext.tools.shards import (
    Checkpoint,
    Shard,
    Tensors,
    nbytes,
    open_checkpoint,
    save_tensors,
    write_index,
    write_safetensors,
)

EMBEDDINGS, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
BOX_EMBEDDING = "model.bbox_fc."
REGION_TENSORS = {
    "model.prompt_projector.": "region_projector.features.",
    BOX_EMBEDDING: "region_projector.box_embedding.",
}
"""Prefixes of names, the original's and ours."""
UNNEEDED = {
    ".rotary_emb.inv_freq": "computed from the config",
    "model.vision_tower.": "read from the tower's own files",
}
"""Parts of the names of tensors that a LLaVA checkpoint does not need, and why."""

logger = logging.getLogger(__name__)


def convert_checkpoint(
    source: str | os.PathLike[str],
    config: RegionConfig,
    out: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
) -> None:
    """Write an original PVIT checkpoint as one that :func:`~pvit_ext.load_pretrained_model` and stock LLaVA load.

    Memory holds the region modules, and one tensor of each checkpoint or one shard where that is a ``.bin`` file.

    Args:
        source: the original's folder, tokenizer included.
        config: with RegionCLIP's weights file and options; the original decides about the box embedding.
        out: a new folder.
        base: the checkpoint that the original is a delta on, LLaMA or LLaVA; None when it holds whole weights.

    Raises:
        ValueError: when tensors are unknown, missing or of another shape, or source and base do not fit together.
        OSError: when files are missing, ``out`` is taken, or the disk is full.
    """
    check_new_folder(out)
    original = open_checkpoint(source)
    values = read_json(original.folder / "config.json")
    ids = _delimiter_ids(values, original.folder / "config.json")
    values |= {"model_type": "llava_llama", "architectures": ["LlavaLlamaForCausalLM"]}
    config = replace(config, box_embedding=BOX_EMBEDDING + "weight" in original.tensors)
    host = LlavaLlamaForCausalLM.config_class.from_dict(values)
    tower = tower_config(host, original.folder)
    merge = _Merge(original, _language_tensors(original, host), None if base is None else open_checkpoint(base))
    module = successor(None, config, host.hidden_size, tower, checkpoint=original.folder)
    module.fill(_region_tensors(merge, ids), original.folder)
    regions = {checkpoint_prefix(host) + name: value for name, value in module.tensors().items()}
    _write(merge, Path(out), regions, {**values, CONFIG_KEY: regions_to_json(module.config, module.facts)})


class _Merge:
    """The original's language tensors, with its base added where it is a delta.

    Raises:
        ValueError: when the two do not fit together.
    """

    def __init__(self, original: Checkpoint, names: list[str], base: Checkpoint | None) -> None:
        self.original, self.base = original, base
        self.names = names
        self.added = {} if base is None else {name: base.tensors[name] for name in names if name in base.tensors}
        _check_size_of_norm(original, base)
        if base is not None:
            _check_base(original, base, names)

    def names_in(self, shard: Shard) -> list[str]:
        """The names in this shard, in the order of the base's shards."""
        names = [name for name in self.names if self.original.tensors[name] is shard]
        return sorted(names, key=lambda name: str(self.added[name].path) if name in self.added else "")

    def read(self, shard: Shard, names: list[str]) -> Tensors:
        """Whole weights; rows by which the vocabulary grew stand as they are."""
        below = self.base.read([name for name in names if name in self.added]) if self.base else iter(())
        for name, tensor in shard.read(names):
            if name in self.added:
                (_, base), tensor = next(below), tensor.clone()
                tensor[: len(base)] += base  # in float32, rounded to the delta's dtype
            yield name, tensor


def _write(merge: _Merge, out: Path, regions: dict[str, Tensor], values: dict[str, Any]) -> None:
    from tqdm import tqdm

    original, others = merge.original, merge.original.other_files()
    weights = [*(original.entry(name) for name in merge.names), *regions.values()]
    size = sum(path.stat().st_size for path in others) + sum(map(nbytes, weights))
    with atomic_folder(out, size) as folder, tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar:
        for path in others:
            copy_file(path, folder / path.name, bar.update)
        files = {"model-regions.safetensors": regions}
        save_tensors(folder / "model-regions.safetensors", regions)
        for number, shard in enumerate(original.shards, start=1):
            file = f"model-{number:05}-of-{len(original.shards):05}.safetensors"
            files[file] = {name: shard.entries[name] for name in merge.names_in(shard)}
            write_safetensors(folder / file, files[file], partial(merge.read, shard))
            bar.update(sum(map(nbytes, files[file].values())))
        write_index(folder, ("model", ".safetensors"), files, original.metadata)
        (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")


def _region_tensors(merge: _Merge, ids: list[int]) -> dict[str, Tensor]:
    tensors = merge.original.tensors
    ((_, embeddings),) = merge.read(tensors[EMBEDDINGS], [EMBEDDINGS])
    state = {"region_projector.delimiters.weight": embeddings[ids]}  # (2, D)
    for old, new in REGION_TENSORS.items():
        names = [name for name in tensors if name.startswith(old)]
        state |= {new + name.removeprefix(old): value for name, value in merge.original.read(names)}
    return state


def _delimiter_ids(values: dict[str, Any], path: Path) -> list[int]:
    keys = ("region_start_token", "region_end_token")
    if absent := [key for key in keys if key not in values]:
        raise ValueError(f"{path} has no {absent}, the ids of <Region> and </Region>: it is not the original PVIT's")
    return [values[key] for key in keys]


def _language_tensors(original: Checkpoint, config: Any) -> list[str]:
    """Names of LLaVA's own tensors in the original, after a check that nothing else and nothing less is there."""
    with torch.device("meta"):
        model = LlavaLlamaForCausalLM(config)
    expected = {
        name: tuple(value.shape) for name, value in model.state_dict().items() if "model.vision_tower." not in name
    }
    for part, reason in UNNEEDED.items():
        if unneeded := [name for name in original.tensors if part in name]:
            logger.info("%d tensors *%s* are left out: %s", len(unneeded), part, reason)
    given = {
        name: original.entry(name)
        for name in original.tensors
        if not any(part in name for part in UNNEEDED) and not name.startswith(tuple(REGION_TENSORS))
    }
    if problems := differences(expected, given):
        raise ValueError(
            f"{original.folder} is not the original PVIT on the LLaMA of its config. " + "; ".join(problems)
        )
    return list(given)


def _check_base(original: Checkpoint, base: Checkpoint, language: list[str]) -> None:
    problems = [
        f"{name} is {tuple(original.entry(name).shape)} on {tuple(base.entry(name).shape)}"
        for name in language
        if name in base.tensors and not _fits(name, base.entry(name), original.entry(name))
    ]
    problems += [f"{name} is missing" for name in language if name not in base.tensors and ".mm_projector." not in name]
    if problems:
        raise ValueError(
            f"{original.folder} is no delta on {base.folder}: {', '.join(problems[:10])}; name the checkpoint it was "
            "made on"
        )


def _fits(name: str, base: Tensor, delta: Tensor) -> bool:
    grown = name in (EMBEDDINGS, HEAD) and len(base) < len(delta) and base.shape[1:] == delta.shape[1:]
    return base.shape == delta.shape or grown


def _check_size_of_norm(original: Checkpoint, base: Checkpoint | None) -> None:
    """A delta taken for whole weights, or the reverse, loads without an error and answers nonsense.

    Scales of LLaMA's last norm are of the order of one; fine-tuning moves them by hundredths.
    """
    ((_, norm),) = original.read([NORM])
    is_delta = bool(norm.float().abs().mean() < 0.2)
    if is_delta and base is None:
        raise ValueError(
            f"{original.folder} looks like a delta ({NORM} is near zero): name the LLaMA it is a delta on (--base)"
        )
    if base is not None and not is_delta:
        raise ValueError(f"{original.folder} looks like whole weights, not a delta ({NORM}): leave --base out")
