"""Region modules as files: what a checkpoint leaves out, and region tensors saved and loaded on their own.

One key map serves both ways: a tensor ``region_projector.*`` or ``region_encoder.*`` of a region file is the tensor of
that name in LLaVA's inner model, and carries the inner model's prefix (``model.``) in a full checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pvit_ext.config import CONFIG_KEY, RegionConfig
from pvit_ext.distributed import gathered
from pvit_ext.encoders.weights import differences, read_checkpoint, shapes
from pvit_ext.files import atomic_write, read_json
from pvit_ext.tokens.region_modules import IDENTITY_AT_START, encoder_is_embedded

MODULES_FILE = "region_modules.safetensors"
CONFIG_FILE = "region_config.json"

logger = logging.getLogger(__name__)


def keys_not_saved(model: Any) -> set[str]:
    """State-dict keys that a full checkpoint leaves out: those of an encoder which lives in its own file."""
    config: RegionConfig | None = model.region_config
    if config is None or encoder_is_embedded(config):
        return set()
    prefix = f"{model.base_model_prefix}.region_encoder."
    return {key for key in model.state_dict() if key.startswith(prefix)}


def region_modules(model: Any) -> dict[str, nn.Module]:
    """The modules that a region file holds, by name in the inner model."""
    inner = model.get_model()
    modules = {"region_projector": inner.region_projector}
    if encoder_is_embedded(model.region_config):
        modules["region_encoder"] = inner.region_encoder
    return modules


def region_state(model: Any) -> dict[str, Tensor]:
    """All region tensors on the CPU, whole also under ZeRO-3 (then every rank has to call this)."""
    state: dict[str, Tensor] = {}
    for name, module in region_modules(model).items():
        with gathered(list(module.parameters())):
            tensors = module.state_dict().items()
            plain = torch.contiguous_format  # else safetensors refuses to write it
            state |= {f"{name}.{key}": value.detach().cpu().clone(memory_format=plain) for key, value in tensors}
    return state


def save_region_modules(
    model: Any, folder: str | os.PathLike[str], base: str | None = None, write: bool = True, adapter: bool = False
) -> None:
    """Write region tensors and their config (safetensors + JSON), nothing of LLaVA.

    Args:
        model: with regions attached.
        folder: made if missing.
        base: checkpoint the modules belong to; :func:`~pvit_ext.load_pretrained_model` uses it by default.
        write: False on ranks that only take part in gathering.
        adapter: a LoRA adapter belongs to the modules and will be written beside them.
    """
    state = region_state(model)
    if not write:
        return
    Path(folder, CONFIG_FILE).unlink(missing_ok=True)  # written last: where it lies, both files are of one save
    with atomic_write(Path(folder, MODULES_FILE)) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
    with atomic_write(Path(folder, CONFIG_FILE)) as temporary:
        values = {"base": base, "adapter": adapter, CONFIG_KEY: model.region_config.to_dict()}
        temporary.write_text(json.dumps(values, indent=2))


def read_region_config(folder: str | os.PathLike[str]) -> tuple[RegionConfig, str | None]:
    """The config in a folder of :func:`save_region_modules`, and the base checkpoint named there."""
    path = Path(folder, CONFIG_FILE)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {folder} was not written by save_region_modules, or that was interrupted"
        )
    values = read_json(path)
    return RegionConfig.from_dict(values[CONFIG_KEY]), values.get("base")


def load_region_modules(model: Any, folder: str | os.PathLike[str]) -> None:
    """Load what :func:`save_region_modules` wrote into a model whose region modules exist.

    A box embedding that the model has and the file lacks keeps its zeros (stage 2 adds it); every other difference
    is an error.

    Raises:
        ValueError: listing missing, unexpected and misshapen tensors.
    """
    if getattr(model.get_model(), "region_projector", None) is None:
        raise ValueError("the model has no region modules to load into: attach() an encoder first")
    path = Path(folder, MODULES_FILE)
    fill_region_modules(model, read_checkpoint(path), path)


def fill_region_modules(model: Any, state: dict[str, Tensor], origin: Path) -> None:
    """Copy the tensors of a region file into a model; differences are as in :func:`load_region_modules`.

    Args:
        model: with region modules.
        state: tensors by their names in the inner model.
        origin: where they are from, for messages.
    """
    modules = region_modules(model)
    with gathered([parameter for module in modules.values() for parameter in module.parameters()], write=True):
        own = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
        _copy_state(state, own, origin)


def _copy_state(state: dict[str, Tensor], own: dict[str, Tensor], path: Path) -> None:
    parts = tuple(f"region_projector.{name}." for name in IDENTITY_AT_START)
    absent = tuple(part for part in parts if not any(key.startswith(part) for key in state))
    expected = {key: shape for key, shape in shapes(own).items() if not key.startswith(absent)}
    if problems := differences(expected, state):
        raise ValueError(f"{path} does not fit the model, nothing was loaded. {'; '.join(problems)}")
    with torch.no_grad():
        for key, value in state.items():
            own[key].copy_(value)
    if kept := own.keys() - state.keys():
        logger.info("%s has no %s: they stay as they are", path, sorted(kept))
