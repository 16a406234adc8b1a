"""Region modules in a checkpoint: creating them, loading the frozen encoder, saving and loading them on their own.

One key map serves both ways: a tensor ``region_projector.*`` or ``region_encoder.*`` of a region file is the tensor of
that name in LLaVA's inner model, and carries the inner model's prefix (``model.``) in a full checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pvit_ext.config import CONFIG_KEY, RegionConfig
from pvit_ext.encoders.base import RegionEncoder, build_region_encoder
from pvit_ext.files import atomic_write, sha256_file
from pvit_ext.projector import RegionProjector

MODULES_FILE = "region_modules.safetensors"
CONFIG_FILE = "region_config.json"
WEIGHTS_FOLDER_VARIABLE = "PVIT_EXT_WEIGHTS"
BOX_EMBEDDING = "region_projector.box_embedding."

logger = logging.getLogger(__name__)


def encoder_is_embedded(config: RegionConfig) -> bool:
    """Whether the encoder's tensors live in the checkpoint: when asked for, and whenever no file holds them."""
    return config.embed_weights or config.weights is None


def create_region_modules(model: Any) -> None:
    """Give a model under construction the modules its config names, so that ``from_pretrained`` fills them."""
    inner = model.get_model()
    inner.region_encoder = inner.region_projector = None
    if (config := model.region_config) is None:
        return
    if encoder_is_embedded(config):
        inner.region_encoder = build_region_encoder(config, tower_config(model))
    inner.region_projector = RegionProjector(config, model.config.hidden_size)


def settle_missing(model: Any, missing: Iterable[str], checkpoint: str | os.PathLike[str]) -> None:
    """Decide on the region tensors that ``from_pretrained`` did not find, which transformers fills at random.

    A box embedding starts at zero (stage 2 adds it). Everything may be missing from a checkpoint that is not the
    config's own: a stock base, under a config with regions, whose region tensors are loaded afterwards.

    Raises:
        ValueError: listing the others.
    """
    inner = f"{model.base_model_prefix}."
    gone = {key.removeprefix(inner) for key in missing if key.startswith(f"{inner}region_")}
    if BOX_EMBEDDING + "weight" in gone or BOX_EMBEDDING + "bias" in gone:
        embedding = model.get_model().region_projector.box_embedding
        with _gathered(list(embedding.parameters()), write=True):
            embedding.reset()
        logger.info("%s has no box embedding: it starts at zero", checkpoint)
    lost = sorted(key for key in gone if not key.startswith(BOX_EMBEDDING))
    if lost and CONFIG_KEY in model.config_class.get_config_dict(checkpoint)[0]:
        raise ValueError(f"{checkpoint} names a region encoder in its config, but lacks its tensors {lost}")
    if lost:
        logger.warning("%s has no region tensors: they are random until they are loaded", checkpoint)


def finish_region_encoder(model: Any, checkpoint: str | os.PathLike[str] = ".") -> None:
    """Build the frozen encoder of a loaded model from the file its config names; freeze an embedded one."""
    config: RegionConfig | None = model.region_config
    inner = model.get_model()
    if config is None:
        return
    if inner.region_encoder is None:
        inner.region_encoder = load_region_encoder(model, config, checkpoint)
        setattr(model.config, CONFIG_KEY, config.to_dict())  # with the checksum, where there was none
    _freeze(inner.region_encoder)
    inner.region_encoder.to(memory_format=torch.channels_last)  # from_pretrained puts contiguous tensors in place


def load_region_encoder(model: Any, config: RegionConfig, checkpoint: str | os.PathLike[str] = ".") -> RegionEncoder:
    """Build an encoder, load its weights, freeze it if it is a tower, and put it where the language model is.

    Args:
        model: LLaVA model whose tower, device and dtype it has to fit.
        config: its ``weights_sha256`` is filled when it is None, and compared otherwise.
        checkpoint: folder in which a relative ``weights`` path is looked up too.

    Raises:
        FileNotFoundError: listing where the file was looked for.
        ValueError: when the file's checksum is another.
    """
    encoder = build_region_encoder(config, tower_config(model))
    if config.weights is not None:
        path = _find_weights(config.weights, Path(checkpoint))
        digest = sha256_file(path)
        if config.weights_sha256 not in (None, digest):
            raise ValueError(
                f"{path} has sha256 {digest}, the checkpoint was made with {config.weights_sha256}: put the right file "
                f"there, or name its folder in {WEIGHTS_FOLDER_VARIABLE}"
            )
        config.weights_sha256 = digest
        encoder.load_weights(str(path))
    reference = model.lm_head.weight
    return _freeze(encoder.to(device=reference.device, dtype=reference.dtype))


def _freeze(encoder: RegionEncoder) -> RegionEncoder:
    return encoder.requires_grad_(not encoder.frozen).eval()


def tower_config(model: Any) -> Any:
    """Config of the image tower, or None for a model without one."""
    tower = model.get_vision_tower()
    return None if tower is None else tower.config


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
        with _gathered(list(module.parameters())):
            for key, value in module.state_dict().items():  # towers are channels-last, files are not
                state[f"{name}.{key}"] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    return state


def save_region_modules(
    model: Any, folder: str | os.PathLike[str], base: str | None = None, write: bool = True
) -> None:
    """Write region tensors and their config (safetensors + JSON), nothing of LLaVA.

    Args:
        model: with regions attached.
        folder: made if missing.
        base: checkpoint the modules belong to; :func:`~pvit_ext.load_pretrained_model` uses it by default.
        write: False on ranks that only take part in gathering.
    """
    state = region_state(model)
    if not write:
        return
    Path(folder, CONFIG_FILE).unlink(missing_ok=True)  # written last: where it lies, both files are of one save
    with atomic_write(Path(folder, MODULES_FILE)) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
    with atomic_write(Path(folder, CONFIG_FILE)) as temporary:
        temporary.write_text(json.dumps({"base": base, CONFIG_KEY: model.region_config.to_dict()}, indent=2))


def read_region_config(folder: str | os.PathLike[str]) -> tuple[RegionConfig, str | None]:
    """The config in a folder of :func:`save_region_modules`, and the base checkpoint named there."""
    path = Path(folder, CONFIG_FILE)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {folder} was not written by save_region_modules, or that was interrupted"
        )
    values = json.loads(path.read_text())
    return RegionConfig.from_dict(values[CONFIG_KEY]), values.get("base")


def load_region_modules(model: Any, folder: str | os.PathLike[str]) -> None:
    """Load what :func:`save_region_modules` wrote into a model whose region modules exist.

    A box embedding that the model has and the file lacks keeps its zeros (stage 2 adds it); every other difference
    is an error.

    Raises:
        ValueError: listing missing, unexpected and misshapen tensors.
    """
    path = Path(folder, MODULES_FILE)
    state, modules = load_file(path), region_modules(model)
    with _gathered([parameter for module in modules.values() for parameter in module.parameters()], write=True):
        own = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
        _copy_state(state, own, path)


def _copy_state(state: dict[str, Tensor], own: dict[str, Tensor], path: Path) -> None:
    missing = sorted(key for key in own.keys() - state.keys() if not key.startswith(BOX_EMBEDDING))
    unexpected = sorted(state.keys() - own.keys())
    shapes = {key: (tuple(state[key].shape), tuple(own[key].shape)) for key in sorted(own.keys() & state.keys())}
    misshapen = [f"{key} {found} instead of {wanted}" for key, (found, wanted) in shapes.items() if found != wanted]
    if missing or unexpected or misshapen:
        raise ValueError(
            f"{path} does not fit the model, nothing was loaded: missing {missing}, unexpected {unexpected}, "
            f"of another shape {misshapen}"
        )
    with torch.no_grad():
        for key, value in state.items():
            own[key].copy_(value)
    if kept := own.keys() - state.keys():
        logger.info("%s has no %s: they start at zero", path, sorted(kept))


def _find_weights(weights: str, checkpoint: Path) -> Path:
    candidates = [Path(weights).expanduser(), checkpoint / weights, checkpoint / Path(weights).name]
    if folder := os.environ.get(WEIGHTS_FOLDER_VARIABLE):
        candidates.append(Path(folder) / Path(weights).name)
    candidates = list(dict.fromkeys(candidates))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"weights of the region encoder not found, looked for {[str(candidate) for candidate in candidates]}; put the "
        f"file into a folder and name the folder in {WEIGHTS_FOLDER_VARIABLE}"
    )


def _gathered(parameters: list[nn.Parameter], write: bool = False) -> Any:
    """DeepSpeed's gathering context where ZeRO-3 has partitioned the parameters, else nothing.

    Args:
        parameters: to be whole inside the block.
        write: what rank 0 writes to them stays.
    """
    partitioned = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not partitioned:
        return torch.no_grad()
    from deepspeed import zero

    return zero.GatheredParameters(partitioned, modifier_rank=0 if write else None)
