"""A LLaVA model's region module: made with the model, filled from its checkpoint, replaced in a loaded one.

LLaVA's inner model registers the region module's two children under their own names, so that a checkpoint holds
``model.region_encoder.*`` and ``model.region_projector.*``; as one child, their names would gain a level and no earlier
checkpoint would load. :class:`~pvit_ext.tokens.region_module.RegionModule` is laid over the two when it is asked for.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

from pvit_ext.config import CONFIG_KEY, EncoderFacts, RegionConfig, StoredRegions, regions_from_json, regions_to_json
from pvit_ext.tokens.region_module import RegionModule, encoder_is_embedded, successor

logger = logging.getLogger(__name__)


def stored_regions(model: Any) -> StoredRegions | None:
    """What a model's config says of regions; None for a stock LLaVA checkpoint."""
    values = getattr(model.config, CONFIG_KEY, None)
    return None if values is None else regions_from_json(values)


def region_module_of(model: Any) -> RegionModule | None:
    """A view of the two region modules of a model, whose tensors it shares; None where there are none."""
    inner = model.get_model()
    projector, stored = getattr(inner, "region_projector", None), stored_regions(model)
    if projector is None or stored is None or stored.facts is None:
        return None
    return RegionModule.over(stored.config, stored.facts, inner.region_encoder, projector)


def create_region_module(model: Any) -> None:
    """Give a model under construction the modules its config names, so that ``from_pretrained`` fills them."""
    inner = model.get_model()
    inner.region_encoder = inner.region_projector = None
    if (stored := stored_regions(model)) is not None:
        hidden_size, tower = model.config.hidden_size, vision_tower_config(model)
        _put(model, RegionModule(stored.config, hidden_size, tower, stored.facts))


def finish_region_module(model: Any, checkpoint: str | os.PathLike[str] = ".") -> None:
    """Build the frozen encoder of a loaded model from the file its config names; freeze an embedded one."""
    if (module := region_module_of(model)) is None:
        return
    if module.region_encoder is None:
        module.read_encoder(vision_tower_config(model), checkpoint).to(**_placement(model))
        _put(model, module)  # with the checksum, where there was none
    module.freeze()


def replace_region_module(
    model: Any,
    config: RegionConfig,
    checkpoint: str | os.PathLike[str] = ".",
    filled_later: bool = False,
    facts: EncoderFacts | None = None,
) -> None:
    """Give a model the encoder a config names, in place of the one it has; see :func:`~pvit_ext.attach`."""
    module = successor(
        region_module_of(model),
        config,
        model.config.hidden_size,
        vision_tower_config(model),
        checkpoint=checkpoint,
        sha256=None if facts is None else facts.weights_sha256,
        filled_later=filled_later,
        placement=_placement(model),
    )
    _put(model, module)


def keys_not_saved(model: Any) -> set[str]:
    """State-dict keys that a full checkpoint leaves out: those of an encoder which lives in its own file."""
    stored = stored_regions(model)
    if stored is None or encoder_is_embedded(stored.config):
        return set()
    prefix = f"{model.base_model_prefix}.region_encoder."
    return {key for key in model.state_dict() if key.startswith(prefix)}


def check_missing_regions(model: Any, missing: Iterable[str], checkpoint: str | os.PathLike[str]) -> None:
    """Decide on the region tensors that ``from_pretrained`` did not find, which transformers fills at random.

    Parts that change nothing at first begin so. Everything may be missing from a checkpoint that is not the
    config's own: a stock base, under a config with regions, whose region tensors are loaded afterwards.

    Raises:
        ValueError: listing the others.
    """
    module, prefix = region_module_of(model), f"{model.base_model_prefix}."
    absent = {key.removeprefix(prefix) for key in missing if key.startswith(f"{prefix}region_")}
    if module is None or not absent:
        return
    absent = module.reset_missing(absent)
    if absent and CONFIG_KEY in model.config_class.get_config_dict(checkpoint)[0]:
        raise ValueError(f"{checkpoint} names a region encoder in its config, but lacks its tensors {sorted(absent)}")
    if absent:
        logger.warning("%s has no region tensors: they are random until they are loaded", checkpoint)


def check_missing_tower(model: Any, missing: Iterable[str], checkpoint: str | os.PathLike[str]) -> None:
    """Decide on the vision tower's tensors that ``from_pretrained`` did not find, which transformers fills at random.

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
    absent = own & set(missing)
    if absent == own:
        logger.warning("%s does not hold its vision tower: it is read from %s", checkpoint, tower.vision_tower_name)
        tower.cfg_only, tower.is_loaded = tower.vision_tower.config, False
        del tower.vision_tower
    elif absent:
        raise ValueError(
            f"{checkpoint} says unfreeze_mm_vision_tower in its config, so it should hold the vision tower, but lacks "
            f"{sorted(absent)}: get the complete checkpoint, or set it to false for the tower of "
            f"{tower.vision_tower_name}"
        )


def vision_tower_config(model: Any) -> Any:
    """Config of the vision tower, or None for a model without one."""
    tower = model.get_vision_tower()
    return None if tower is None else tower.config


def _put(model: Any, module: RegionModule) -> None:
    inner = model.get_model()
    inner.region_encoder, inner.region_projector = module.region_encoder, module.region_projector
    setattr(model.config, CONFIG_KEY, regions_to_json(module.config, module.facts))


def _placement(model: Any) -> dict[str, Any]:
    """Dtype of the language model, and where its inputs go: under a ``device_map`` its head may lie on the disk."""
    weight, hook = model.lm_head.weight, getattr(model, "_hf_hook", None)  # accelerate's
    return {"device": getattr(hook, "execution_device", weight.device), "dtype": weight.dtype}
