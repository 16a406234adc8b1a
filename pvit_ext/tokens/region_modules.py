"""The region modules of a model: made with it, filled from the encoder's own file, or put into a loaded model."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from pvit_ext.config import CONFIG_KEY, RegionConfig
from pvit_ext.distributed import gathered
from pvit_ext.encoders.base import RegionEncoder, build_region_encoder
from pvit_ext.encoders.weights import shapes
from pvit_ext.files import sha256_file
from pvit_ext.tokens.projector import RegionProjector

WEIGHTS_FOLDER_VARIABLE = "PVIT_EXT_WEIGHTS"
IDENTITY_AT_START = ("box_embedding", "cross_layers")
"""Parts of the region projector that a checkpoint may lack: a stage adds them, and they change nothing at first."""

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
    inner.region_projector = RegionProjector(config, model.config.hidden_size, tower_config(model))


def settle_missing(model: Any, missing: Iterable[str], checkpoint: str | os.PathLike[str]) -> None:
    """Decide on the region tensors that ``from_pretrained`` did not find, which transformers fills at random.

    Parts that are :data:`IDENTITY_AT_START` begin so. Everything may be missing from a checkpoint that is not the
    config's own: a stock base, under a config with regions, whose region tensors are loaded afterwards.

    Raises:
        ValueError: listing the others.
    """
    inner = f"{model.base_model_prefix}."
    gone = {key.removeprefix(inner) for key in missing if key.startswith(f"{inner}region_")}
    for name in IDENTITY_AT_START:
        part = getattr(model.get_model().region_projector, name, None)
        if part is None or not (own := {f"region_projector.{name}.{key}" for key in part.state_dict()}) <= gone:
            continue
        if any(parameter.is_meta for parameter in part.parameters()):
            part.to_empty(device="cpu")
        with gathered(list(part.parameters()), write=True):
            part.reset()
        gone -= own
        logger.info("%s has no %s: it changes nothing until it is trained", checkpoint, name)
    lost = sorted(gone)
    if lost and CONFIG_KEY in model.config_class.get_config_dict(checkpoint)[0]:
        raise ValueError(f"{checkpoint} names a region encoder in its config, but lacks its tensors {lost}")
    if lost:
        logger.warning("%s has no region tensors: they are random until they are loaded", checkpoint)


def settle_missing_tower(model: Any, missing: Iterable[str], checkpoint: str | os.PathLike[str]) -> None:
    """Decide on the image tower's tensors that ``from_pretrained`` did not find, which transformers fills at random.

    LLaVA takes the tower of a LLaVA-1.6 (``unfreeze_mm_vision_tower``) from the checkpoint. One without any of its
    tensors has the tower of its own file, which is read when it is needed, as in a LLaVA-1.5. Either is frozen, which
    transformers 5 forgets of the parameters that it puts in place of LLaVA's.

    Raises:
        ValueError: listing what is missing, when some are there.
    """
    tower = model.get_vision_tower()
    if tower is None or not tower.is_loaded:
        return
    tower.requires_grad_(False)
    prefix = f"{model.base_model_prefix}.vision_tower."
    own = {f"{prefix}{name}" for name, _ in tower.named_parameters()}
    lost = own & set(missing)
    if lost == own:
        logger.warning("%s does not hold its image tower: it is read from %s", checkpoint, tower.vision_tower_name)
        tower.cfg_only, tower.is_loaded = tower.vision_tower.config, False
        del tower.vision_tower
    elif lost:
        raise ValueError(
            f"{checkpoint} says unfreeze_mm_vision_tower in its config, so it should hold the image tower, but lacks "
            f"{sorted(lost)}: get the whole checkpoint, or set it to false for the tower of {tower.vision_tower_name}"
        )


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


def load_region_encoder(
    model: Any, config: RegionConfig, checkpoint: str | os.PathLike[str] = ".", filled_later: bool = False
) -> RegionEncoder:
    """Build an encoder, load its weights, freeze it if it is a tower, and put it where the language model is.

    Args:
        model: LLaVA model whose tower, device and dtype it has to fit.
        config: its ``weights_sha256`` is filled when it is None, and compared otherwise.
        checkpoint: folder in which a relative ``weights`` path is looked up too.
        filled_later: tensors that live in a checkpoint are loaded from it afterwards; their file is not needed.

    Raises:
        FileNotFoundError: listing where the file was looked for.
        ValueError: when the file's checksum is another.
    """
    encoder = build_region_encoder(config, tower_config(model))
    config.embed_weights |= not encoder.frozen  # what a stage trains is no longer what the file holds
    if config.weights is None and encoder.frozen:
        logger.warning("region encoder %r is frozen and has no weights file: it is random", config.encoder)
    if config.weights is not None and not (filled_later and encoder_is_embedded(config)):
        path = _find_weights(config.weights, Path(checkpoint))
        digest = sha256_file(path)
        if config.weights_sha256 not in (None, digest):
            raise ValueError(
                f"{path} has sha256 {digest}, the checkpoint was made with {config.weights_sha256}: put the right file "
                f"there, or name its folder in {WEIGHTS_FOLDER_VARIABLE}"
            )
        config.weights_sha256 = digest
        encoder.load_weights(str(path))
    return _freeze(encoder.to(**_place(model)))


def replace_region_modules(
    model: Any, config: RegionConfig, checkpoint: str | os.PathLike[str] = ".", filled_later: bool = False
) -> None:
    """Give a model the encoder a config names, in place of the one it has; see :func:`~pvit_ext.attach`."""
    inner = model.get_model()
    if (before := getattr(model, "region_config", None)) is not None:
        config.box_embedding |= before.box_embedding
        config.cross_layers = config.cross_layers or before.cross_layers
        config.conv_version = config.conv_version or before.conv_version
    encoder = _encoder_to_keep(model, config) or load_region_encoder(model, config, checkpoint, filled_later)
    projector = RegionProjector(config, model.config.hidden_size, tower_config(model)).to(**_place(model))
    old = getattr(inner, "region_projector", None)
    with gathered(list(old.parameters()) if old is not None else []):
        _keep_what_fits(old, projector)
    inner.region_encoder, inner.region_projector = encoder, projector
    setattr(model.config, CONFIG_KEY, config.to_dict())


def same_encoder(one: RegionConfig, other: RegionConfig) -> bool:
    """Whether two configs name the same encoder with the same options and weights file."""
    first, second = ([c.encoder, c.encoder_options, c.weights] for c in (one, other))
    as_saved = partial(json.dumps, sort_keys=True)  # there a tuple is a list, and keys have transformers' order
    return as_saved(first) == as_saved(second)


def tower_config(model: Any) -> Any:
    """Config of the image tower, or None for a model without one."""
    tower = model.get_vision_tower()
    return None if tower is None else tower.config


def _place(model: Any) -> dict[str, Any]:
    """Dtype of the language model, and where its inputs go: under a ``device_map`` its head may lie on the disk."""
    weight, hook = model.lm_head.weight, getattr(model, "_hf_hook", None)  # accelerate's
    return {"device": getattr(hook, "execution_device", weight.device), "dtype": weight.dtype}


def _freeze(encoder: RegionEncoder) -> RegionEncoder:
    return encoder.requires_grad_(not encoder.frozen).eval()


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


def _encoder_to_keep(model: Any, config: RegionConfig) -> RegionEncoder | None:
    """The model's encoder if the config names that one; its T, C and checksum then go into the config."""
    old: RegionConfig | None = getattr(model, "region_config", None)
    encoder: RegionEncoder | None = getattr(model.get_model(), "region_encoder", None)
    if old is None or encoder is None or config.weights_sha256 not in (None, old.weights_sha256):
        return None
    if not same_encoder(old, config):
        return None
    config.feature_dim, config.tokens_per_region = encoder.feature_dim, encoder.tokens_per_region
    config.weights_sha256 = old.weights_sha256
    return encoder


def _keep_what_fits(old: RegionProjector | None, new: RegionProjector) -> None:
    """Copy each part of the old projector whose tensors all have the new one's shapes."""
    for name, part in new.named_children():
        before = getattr(old, name, None)
        if before is None:
            continue
        if (found := shapes(before.state_dict())) == (wanted := shapes(part.state_dict())):
            part.load_state_dict(before.state_dict())
            logger.info("region projector: %s is kept", name)
        else:
            logger.warning("region projector: %s starts anew, the old one %s does not fit %s", name, found, wanted)
