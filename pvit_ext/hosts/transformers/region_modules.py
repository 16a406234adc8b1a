"""The region modules of an outer model: its children ``region_encoder`` and ``region_projector``.

They belong to the outer model: inside the inner one, the key mappings of some families (Qwen's) would rename them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Any

from pvit_ext.config import CONFIG_KEY, EncoderFacts, RegionConfig, StoredRegions, regions_from_json, regions_to_json
from pvit_ext.hosts.transformers.families import family_of
from pvit_ext.tokens.region_module import RegionModule, encoder_is_embedded, successor

PREFIXES = ("region_encoder.", "region_projector.")

logger = logging.getLogger(__name__)


def stored_regions(config: Any) -> StoredRegions | None:
    """What a model's config says of regions; None for a stock one."""
    values = getattr(config, CONFIG_KEY, None)
    return None if values is None else regions_from_json(values)


def region_module_of(model: Any) -> RegionModule | None:
    """A view of the two region modules of a model, whose tensors it shares; None where there are none."""
    projector, stored = getattr(model, "region_projector", None), stored_regions(model.config)
    if projector is None or stored is None or stored.facts is None:
        return None
    return RegionModule.over(stored.config, stored.facts, model.region_encoder, projector)


def create_region_module(model: Any) -> None:
    """Give a model under construction the modules its config names, so that ``from_pretrained`` fills them."""
    if (stored := stored_regions(model.config)) is not None:
        tower = family_of(model.config).tower_config(model.config)
        _put(model, RegionModule(stored.config, _width(model), tower, stored.facts))


def finish_region_module(model: Any, checkpoint: str | os.PathLike[str]) -> None:
    """Build the frozen encoder of a loaded model from the file its config names; freeze an embedded one."""
    if (module := region_module_of(model)) is None:
        return
    if module.region_encoder is None:
        tower = family_of(model.config).tower_config(model.config)
        module.read_encoder(tower, checkpoint).to(**_placement(model))
        _put(model, module)
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
        _width(model),
        family_of(model.config).tower_config(model.config),
        checkpoint=checkpoint,
        sha256=None if facts is None else facts.weights_sha256,
        filled_later=filled_later,
        placement=_placement(model),
    )
    _put(model, module)


def keys_not_saved(model: Any) -> set[str]:
    """State-dict keys that a full checkpoint leaves out: those of an encoder which lives in its own file."""
    stored = stored_regions(model.config)
    if stored is None or encoder_is_embedded(stored.config):
        return set()
    return {key for key in model.state_dict() if key.startswith("region_encoder.")}


def check_missing_regions(model: Any, missing: Iterable[str], checkpoint: str | os.PathLike[str]) -> None:
    """Decide on the region tensors that ``from_pretrained`` did not find, which transformers fills at random.

    Raises:
        ValueError: listing those that a checkpoint with a region encoder in its config lacks.
    """
    absent = {key for key in missing if key.startswith(PREFIXES)}
    if (module := region_module_of(model)) is None or not absent:
        return
    absent = module.reset_missing(absent)
    if absent and CONFIG_KEY in model.config_class.get_config_dict(checkpoint)[0]:
        raise ValueError(f"{checkpoint} names a region encoder in its config, but lacks its tensors {sorted(absent)}")
    if absent:
        logger.warning("%s has no region tensors: they are random until they are loaded", checkpoint)


def _put(model: Any, module: RegionModule) -> None:
    model.region_encoder, model.region_projector = module.region_encoder, module.region_projector
    setattr(model.config, CONFIG_KEY, regions_to_json(module.config, module.facts))


def _width(model: Any) -> int:
    return int(model.config.get_text_config().hidden_size)


def _placement(model: Any) -> dict[str, Any]:
    """Dtype of the language model, and where its inputs go: under a ``device_map`` its head may lie on the disk."""
    weight, hook = model.get_output_embeddings().weight, getattr(model, "_hf_hook", None)  # accelerate's
    return {"device": getattr(hook, "execution_device", None) or weight.device, "dtype": weight.dtype}
