"""Region modules as files of their own: safetensors and JSON, nothing of the language model.

A tensor ``region_projector.*`` or ``region_encoder.*`` of a region file is the tensor of that name in the host's inner
model, and carries the inner model's prefix (``model.``) in a full checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from pvit_ext.config import CONFIG_KEY, EncoderFacts, RegionConfig, regions_from_json
from pvit_ext.encoders.weights import differences, shapes
from pvit_ext.files import absolute, atomic_write, read_json

MODULES_FILE = "region_modules.safetensors"
CONFIG_FILE = "region_config.json"

logger = logging.getLogger(__name__)


class SavedRegions(NamedTuple):
    """The config in a region folder, the base checkpoint named there, and what the encoder reported."""

    config: RegionConfig
    base: str | None
    facts: EncoderFacts | None


def save_region_modules(
    model: Any, folder: str | os.PathLike[str], base: str | None = None, write: bool = True, adapter: bool = False
) -> None:
    """Write region tensors and their config (safetensors + JSON), nothing of the language model.

    Args:
        model: with regions attached.
        folder: made if missing.
        base: checkpoint the modules belong to; :func:`~pvit_ext.load_pretrained_model` uses it by default.
        write: False on ranks that only take part in gathering.
        adapter: a LoRA adapter belongs to the modules and will be written beside them.

    Raises:
        ValueError: for a model without region modules.
    """
    _region_module(model).save(folder, base, write, adapter)


def load_region_modules(model: Any, folder: str | os.PathLike[str]) -> None:
    """Load what :func:`save_region_modules` wrote into a model whose region modules exist.

    Parts that a stage may add (box embedding, cross layers, LION's) and the file lacks stay as they are; every other
    difference is an error.

    Args:
        model: with regions attached.
        folder: with the two files.

    Raises:
        ValueError: listing missing, unexpected and misshapen tensors; for a model without region modules, or with
            adapters of other tasks or an aggregator of another kind or other depths.
    """
    _region_module(model).load(folder)


def _region_module(model: Any) -> Any:
    if (module := getattr(model, "region_module", None)) is None:
        raise ValueError("the model has no region modules: attach() an encoder first")
    return module


def write_region_files(
    folder: str | os.PathLike[str], tensors: dict[str, Tensor], regions: dict[str, Any], base: str | None, adapter: bool
) -> None:
    """Write the two files of a region folder.

    Args:
        folder: made if missing.
        tensors: by name.
        regions: the nested key of config.json.
        base: checkpoint the modules belong to.
        adapter: a LoRA adapter will be written beside them.
    """
    Path(folder, CONFIG_FILE).unlink(missing_ok=True)  # written last: where it lies, both files are of one save
    with atomic_write(Path(folder, MODULES_FILE)) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    with atomic_write(Path(folder, CONFIG_FILE)) as temporary:
        base = None if base is None else absolute(base)
        temporary.write_text(json.dumps({"base": base, "adapter": adapter, CONFIG_KEY: regions}, indent=2))


def read_region_config(folder: str | os.PathLike[str]) -> SavedRegions:
    """What :func:`save_region_modules` wrote about the modules in a folder.

    Raises:
        FileNotFoundError: when it is no such folder.
        ValueError: for a format that this version does not know.
    """
    path = Path(folder, CONFIG_FILE)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {folder} was not written by save_region_modules, or that was interrupted"
        )
    values = read_json(path)
    try:
        config, facts = regions_from_json(values[CONFIG_KEY])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return SavedRegions(config, values.get("base"), facts)


def copy_state(tensors: dict[str, Tensor], own: dict[str, Tensor], path: Path, optional: tuple[str, ...]) -> None:
    """Copy tensors of a file into a model's.

    Args:
        tensors: of the file.
        own: of the model, by the same names.
        path: the file, for messages.
        optional: prefixes of names; the file may have none of one.

    Raises:
        ValueError: listing every other difference; nothing is copied then.
    """
    absent = tuple(part for part in optional if not any(key.startswith(part) for key in tensors))
    expected = {key: shape for key, shape in shapes(own).items() if not key.startswith(absent)}
    if problems := differences(expected, tensors):
        raise ValueError(f"{path} does not fit the model, nothing was loaded. {'; '.join(problems)}")
    with torch.no_grad():
        for key, value in tensors.items():
            own[key].copy_(value)
    if kept := own.keys() - tensors.keys():
        logger.info("%s has no %s: they stay as they are", path, sorted(kept))
