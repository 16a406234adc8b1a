"""Loads a LLaVA with regions from a checkpoint and what lies on it, or gives a loaded one a region encoder."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from pvit_ext.adapters.lora import load_adapter
from pvit_ext.config import CONFIG_KEY, EncoderFacts, RegionConfig
from pvit_ext.encoders.weights import read_checkpoint
from pvit_ext.files import read_json
from pvit_ext.hosts.checkpoint_kind import PROJECTOR_FILE, CheckpointKind, find_kind, note_put_on
from pvit_ext.hosts.find import Loaded
from pvit_ext.hosts.llava.model_regions import LlavaRegions
from pvit_ext.hosts.llava.patching import TOWER_POINTS, patched
from pvit_ext.hosts.llava.quantizing import unquantized
from pvit_ext.hosts.load_call import LoadCall
from pvit_ext.ops.frozen import keep_frozen_in_eval
from pvit_ext.tokens.serialization import load_region_modules, read_region_config

logger = logging.getLogger(__name__)


def attach(
    model: Any,
    config: RegionConfig,
    checkpoint: str = ".",
    filled_later: bool = False,
    facts: EncoderFacts | None = None,
) -> Any:
    """Give a loaded LLaVA model a region encoder, in place; see :func:`pvit_ext.attach`."""
    from pvit_ext.hosts.llava.classes import region_class

    kind = region_class(type(model))
    LlavaRegions(model).replace(config, checkpoint, filled_later, facts)
    model.__class__ = kind
    keep_frozen_in_eval(model.get_vision_tower())
    return model


def load(kind: CheckpointKind, call: LoadCall) -> Loaded:
    """Load tokenizer, model, image processor and context length.

    Args:
        kind: what to load.
        call: device, dtype and the like.

    Raises:
        ValueError: when the folder holds no LLaVA checkpoint, or parts do not fit together.
    """
    tokenizer, model = load_kind(kind, call)
    context_len = getattr(model.config, "max_sequence_length", 2048)
    return Loaded(tokenizer, model.eval(), model.get_vision_tower().image_processor, context_len)


def load_kind(kind: CheckpointKind, call: LoadCall, values: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """Load a checkpoint and, if it is none by itself, the ones under it first.

    Args:
        kind: what to load.
        call: device, dtype and the like.
        values: of the config.json of what lies on top, for a base that may be a language model without images.

    Raises:
        ValueError: when parts do not fit together.
    """
    if kind.base is None or kind.folder is None:
        return _load_llava(kind.path, call, values)
    call = call.for_adapter(kind.folder) if kind.adapter else call
    own = kind.folder / "config.json"
    values = {**read_json(own), **(values or {})} if own.is_file() else values
    under = find_kind(kind.base)
    logger.info("%s", under)
    tokenizer, model = load_kind(under, call, values)
    if kind.regions:
        saved = read_region_config(kind.folder)
        config = saved.config.without_absent_lion()
        attach(model, config, checkpoint=str(kind.folder), filled_later=True, facts=saved.facts)
        load_region_modules(model, kind.folder)
    if kind.projector:
        load_projector(model, kind.folder / PROJECTOR_FILE)
    if kind.adapter:
        model = load_adapter(model, kind.folder, 16 if call.quantization is None else call.quantization.bits)
    note_put_on(model, kind)
    return tokenizer, model


def load_projector(model: Any, path: Path) -> None:
    """Fill the mm_projector from LLaVA's file.

    Raises:
        ValueError: when the file's tensors are not the model's.
    """
    prefix = model.base_model_prefix
    state = {f"{prefix}.{name.rpartition('model.')[2]}": value for name, value in read_checkpoint(path).items()}
    if unexpected := model.load_state_dict(state, strict=False).unexpected_keys:
        raise ValueError(f"{path} holds tensors that its base model lacks: {sorted(unexpected)}")


def _load_llava(path: str, call: LoadCall, values: dict[str, Any] | None) -> tuple[Any, Any]:
    from pvit_ext.hosts.llava.classes import load_config, region_class_of_config
    from pvit_ext.hosts.llava.tokenizer import load_tokenizer

    config = load_config(path, _with_regions_of(path, values))
    model_class = region_class_of_config(config)
    tokenizer = load_tokenizer(path, use_fast=model_class.fast_tokenizer)
    # What the base lacks and a folder on top fills would stay on the meta device (transformers 4.36 and 4.37).
    options = call.model_options(unquantized(model_class), call.dtype)
    model = model_class.from_pretrained(
        path, config=config, torch_dtype=call.dtype, low_cpu_mem_usage=values is None, **options
    )
    _add_image_tokens(tokenizer, model)
    tower = model.get_vision_tower()
    if tower is None:
        raise ValueError(f"{path} is a language model without a vision tower, not a LLaVA checkpoint")
    if not tower.is_loaded:
        with patched(TOWER_POINTS):
            tower.load_model()
    if not call.places_itself:
        model.to(call.device)
    tower.to(device=call.device, dtype=call.dtype)
    return tokenizer, model


def _with_regions_of(path: str, values: dict[str, Any] | None) -> dict[str, Any] | None:
    """The config.json of what lies on a base, but for the parts that describe the base's own tensors."""
    if values is None:
        return None
    own = PretrainedConfig.get_config_dict(path)[0]
    of_base = (CONFIG_KEY, "vocab_size", "pad_token_id", "quantization_config")
    kept = {key: own[key] for key in of_base[:-1] if key in own}
    return {key: value for key, value in values.items() if key not in of_base} | kept


def _add_image_tokens(tokenizer: Any, model: Any) -> None:
    """Add LLaVA's image tokens as its builder does, from the same config keys and with the same defaults."""
    from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN

    if getattr(model.config, "mm_use_im_patch_token", True):
        tokenizer.add_tokens([DEFAULT_IMAGE_PATCH_TOKEN], special_tokens=True)
    if getattr(model.config, "mm_use_im_start_end", False):
        tokenizer.add_tokens([DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN], special_tokens=True)
    if model.get_input_embeddings().num_embeddings != len(tokenizer):
        model.resize_token_embeddings(len(tokenizer))
