"""What was trained on a checkpoint, and that checkpoint, written as one that loads by itself."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from pvit_ext.adapters.lion.feed_forward import mixtures_in
from pvit_ext.files import atomic_folder, check_new_folder, fingerprint, read_json
from pvit_ext.hosts.checkpoint_kind import CheckpointKind, find_kind, lowest_checkpoint
from pvit_ext.hosts.find import host_of_checkpoint
from pvit_ext.hosts.load_call import LoadCall
from pvit_ext.hosts.loading import fitting
from pvit_ext.tools.quantized_base import distance_to_merged, quantization_of

MERGED_FROM = "merged_from.json"
_NOT_MERGED = (
    "a mixture of adapters cannot be merged into its feed-forward layer: it is not linear (relu), and differs between "
    "samples (gates by task); it stays beside the layer"
)

logger = logging.getLogger(__name__)


def merge_checkpoint(source: str, out: str, base: str | None = None, dtype: torch.dtype | str | None = None) -> None:
    """Write a LoRA adapter, region modules or LLaVA's mm_projector, with everything under it, as a whole checkpoint.

    It loads as ``source`` does in the same dtype. The model is in memory, on the CPU.

    Args:
        source: folder or hub id of what was trained.
        out: a new folder.
        base: checkpoint under it; by default the one it names.
        dtype: of what is written; by default that of the lowest checkpoint.

    Raises:
        ValueError: when ``source`` is a whole checkpoint or its own base, does not fit its base, or ``out`` is empty.
        OSError: when files are missing, ``out`` is taken, or the disk is full.
    """
    check_new_folder(out)  # again once all is loaded, which takes minutes
    if base is not None and Path(base).absolute() == Path(source).absolute():
        raise ValueError(f"{source} is named as its own base: name the checkpoint that it was trained on, or none")
    kind = find_kind(source, base)
    if kind.base is None:
        raise ValueError(f"{kind}, there is nothing to merge")
    kind.announce()
    lowest = lowest_checkpoint(kind)
    host = host_of_checkpoint(kind)
    call = replace(LoadCall.of(source, base, None, "cpu", dtype or _stored_dtype(lowest), {}), as_trained=False)
    with fitting(kind):
        loaded = host.load(kind, call)
    model = loaded.model
    if quantization_of(kind) is not None:
        logger.warning("%s: %s", source, distance_to_merged(kind, call, model, loaded.tokenizer))
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    with atomic_folder(out, size) as folder:
        _enable_sampling(model.generation_config)
        model.save_pretrained(folder)
        host.save_processor(loaded, lowest, folder)
        (folder / MERGED_FROM).write_text(json.dumps({"parents": parents(kind)}, indent=1) + "\n")
    if mixtures_in(model):
        logger.warning("%s: %s", out, _NOT_MERGED)


def parents(kind: CheckpointKind) -> list[dict[str, Any]]:
    """The folders that a merge puts together, the topmost first, and a fingerprint of each file of weights in them."""
    found: list[dict[str, Any]] = []
    while True:
        files = sorted(kind.folder.iterdir()) if kind.folder is not None else []
        weights = {file.name: fingerprint(file) for file in files if file.suffix in (".safetensors", ".bin")}
        found.append({"path": str(kind.folder.absolute()) if kind.folder else kind.path, "weights": weights})
        if kind.base is None:
            return found
        kind = find_kind(kind.base)


def is_merge_of(folder: Path, kind: CheckpointKind) -> bool:
    """Whether a folder was merged from these weights, whatever their folders are called now."""
    before, now = ([one["weights"] or one["path"] for one in found] for found in (_recorded(folder), parents(kind)))
    return before == now


def _recorded(folder: Path) -> list[dict[str, Any]]:
    return list(read_json(folder / MERGED_FROM)["parents"])


def _stored_dtype(path: str) -> str:
    values = PretrainedConfig.get_config_dict(path)[0]
    return str(values.get("dtype") or values.get("torch_dtype") or "float32")


def _enable_sampling(config: Any) -> None:
    """Set ``do_sample`` beside a temperature: transformers refuses to save Vicuna's generation_config without."""
    if config is not None and (config.temperature not in (None, 1.0) or config.top_p not in (None, 1.0)):
        config.do_sample = True
