"""Getting a LLaVA with regions: load a checkpoint, or attach a region encoder to a loaded model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from pvit_ext.adapters.lora import merge_adapter
from pvit_ext.config import CONFIG_KEY, EncoderFacts, RegionConfig
from pvit_ext.encoders.weights import read_checkpoint
from pvit_ext.files import read_json
from pvit_ext.hosts.llava.checkpoint_kind import PROJECTOR_FILE, CheckpointKind, find_kind
from pvit_ext.hosts.llava.load_call import LoadCall
from pvit_ext.hosts.llava.region_modules import replace_region_module
from pvit_ext.tokens.serialization import load_region_modules, read_region_config

logger = logging.getLogger(__name__)


def attach(
    model: Any,
    config: RegionConfig,
    checkpoint: str = ".",
    filled_later: bool = False,
    facts: EncoderFacts | None = None,
) -> Any:
    """Give a loaded LLaVA model a region encoder, in place; an encoder it has is replaced.

    An encoder of the same name, options and weights file stays as it is; so do the conversation template and the box
    embedding, unless the config names others. The region projector, and each part of it,
    stays where its width fits the new encoder and is said to be new otherwise. Language model, vision tower and
    mm_projector are not touched, and nothing is when the new encoder cannot be built.

    Args:
        model: stock or region-enabled LLaVA model.
        config: which encoder, with which weights.
        checkpoint: folder in which a relative ``config.weights`` is looked up too.
        filled_later: :func:`~pvit_ext.load_region_modules` follows, and a weights file that its folder replaces is not
            read.
        facts: stored with a config that was read from a checkpoint; the weights file has to have its checksum.

    Returns:
        The same model.
    """
    from pvit_ext.hosts.llava.classes import region_class

    kind = region_class(type(model))
    replace_region_module(model, config, checkpoint, filled_later, facts)
    model.__class__ = kind
    return model


def load_pretrained_model(
    path: str = "",
    base: str | None = None,
    region_config: RegionConfig | str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    **kwargs: Any,
) -> tuple[Any, Any, Any, int]:
    """Load tokenizer, model, image processor and context length, like LLaVA's function of this name, with regions.

    LLaVA's own calls work: a text in third place is its ``model_name``, which is not needed, for files say what kind a
    checkpoint is; ``model_path``, ``model_base``, ``torch_dtype`` and ``use_flash_attn`` mean what they mean there.

    Args:
        path: a LLaVA checkpoint, or what was trained on one: a folder of :func:`~pvit_ext.save_region_modules` (the
            output of stage 1), of a LoRA run (LLaVA's or ours; it is merged), or with LLaVA's ``mm_projector.bin``.
        base: checkpoint under such a folder; by default the one it names.
        region_config: attach this encoder, in place of the checkpoint's if it has one.
        device: default CUDA if there is one, else CPU.
        dtype: default float16 on CUDA, float32 on CPU; ``"bfloat16"`` is ``torch.bfloat16``.
        kwargs: passed to ``from_pretrained`` (``attn_implementation``, ``device_map``, ...).

    Raises:
        FileNotFoundError: when there is no such folder, or its base is missing or not known.
        ValueError: when the folder holds no LLaVA checkpoint, an argument cannot be met, or ``device`` is CUDA where
            there is none.
    """
    call = LoadCall.of(path, base, region_config, device, dtype, kwargs)
    tokenizer, model = load_kind(find_kind(call.path, call.base), call)
    if call.region_config is not None:
        attach(model, call.region_config, checkpoint=call.path)
    context_len = getattr(model.config, "max_sequence_length", 2048)
    return tokenizer, model.eval(), model.get_vision_tower().image_processor, context_len


def load_kind(kind: CheckpointKind, call: LoadCall, values: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """Load a checkpoint and, if it is none by itself, the ones under it first.

    Args:
        kind: what to load.
        call: device, dtype and the like.
        values: of the config.json of what lies on top, for a base that may be a language model without images.

    Raises:
        ValueError: when parts do not fit together.
    """
    logger.info("%s", kind)
    if kind.base is None or kind.folder is None:
        return _load_llava(kind.path, call, values)
    own = kind.folder / "config.json"
    values = {**read_json(own), **(values or {})} if own.is_file() else values
    tokenizer, model = load_kind(find_kind(kind.base), call, values)
    if kind.regions:
        saved = read_region_config(kind.folder)
        attach(model, saved.config, checkpoint=str(kind.folder), filled_later=True, facts=saved.facts)
        load_region_modules(model, kind.folder)
    if kind.projector:
        load_projector(model, kind.folder / PROJECTOR_FILE)
    if kind.adapter:
        model = merge_adapter(model, kind.folder)
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
    model = model_class.from_pretrained(
        path, config=config, torch_dtype=call.dtype, low_cpu_mem_usage=values is None, **call.kwargs
    )
    _add_image_tokens(tokenizer, model)
    tower = model.get_vision_tower()
    if tower is None:
        raise ValueError(f"{path} is a language model without a vision tower, not a LLaVA checkpoint")
    if not tower.is_loaded:
        tower.load_model()
    if "device_map" not in call.kwargs:
        model.to(call.device)
    tower.to(device=call.device, dtype=call.dtype)
    return tokenizer, model


def _with_regions_of(path: str, values: dict[str, Any] | None) -> dict[str, Any] | None:
    """The config.json of what lies on a base, but for the parts that describe the base's own tensors."""
    if values is None:
        return None
    own = PretrainedConfig.get_config_dict(path)[0]
    parts = {key: own[key] for key in (CONFIG_KEY, "vocab_size") if key in own}
    return {key: value for key, value in values.items() if key not in (CONFIG_KEY, "quantization_config")} | parts


def _add_image_tokens(tokenizer: Any, model: Any) -> None:
    """As LLaVA's builder does, from the same config keys and with the same defaults."""
    from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN

    if getattr(model.config, "mm_use_im_patch_token", True):
        tokenizer.add_tokens([DEFAULT_IMAGE_PATCH_TOKEN], special_tokens=True)
    if getattr(model.config, "mm_use_im_start_end", False):
        tokenizer.add_tokens([DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN], special_tokens=True)
    if model.get_input_embeddings().num_embeddings != len(tokenizer):
        model.resize_token_embeddings(len(tokenizer))
