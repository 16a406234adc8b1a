"""Getting a LLaVA with regions: load a checkpoint, or attach a region encoder to a loaded model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pvit_ext.adapters.lora import is_adapter, merge_adapter
from pvit_ext.config import EncoderFacts, RegionConfig
from pvit_ext.hosts.llava.region_modules import replace_region_module
from pvit_ext.tokens.serialization import CONFIG_FILE, load_region_modules, read_region_config


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
    stays where its width fits the new encoder and is said to be new otherwise. Language model, image tower and
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
    path: str,
    base: str | None = None,
    region_config: RegionConfig | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> tuple[Any, Any, Any, int]:
    """Load tokenizer, model, image processor and context length, like LLaVA's function of this name, with regions.

    Args:
        path: a LLaVA checkpoint, or a folder of :func:`~pvit_ext.save_region_modules` (the output of stage 1), which
            may hold a LoRA adapter too; it is merged.
        base: LLaVA checkpoint under such a folder; by default the one it names.
        region_config: attach this encoder, in place of the checkpoint's if it has one.
        device: default CUDA if there is one, else CPU.
        dtype: default float16 on CUDA, float32 on CPU.
        kwargs: passed to ``from_pretrained`` (``attn_implementation``, ``device_map``, ...).

    Raises:
        FileNotFoundError: when there is no such folder, or it holds only region modules and no base is known.
        ValueError: when the folder holds no LLaVA checkpoint, or ``device`` is CUDA where there is none.
    """
    if not Path(path).exists() and (Path(path).is_absolute() or path.count("/") != 1):  # else perhaps a hub id
        raise FileNotFoundError(f"{path}: no such checkpoint folder")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {str(device)!r} was asked for, but this torch ({torch.__version__}) sees no CUDA device"
        )
    dtype = dtype or (torch.float16 if device.type == "cuda" else torch.float32)
    modules = path if Path(path, CONFIG_FILE).is_file() else None
    checkpoint = _base_of(modules, base) if modules else path
    tokenizer, model = _load_llava(checkpoint, dtype, device, kwargs)
    if modules:
        saved = read_region_config(modules)
        attach(model, saved.config, checkpoint=modules, filled_later=True, facts=saved.facts)
        load_region_modules(model, modules)
        if is_adapter(modules):
            model = merge_adapter(model, modules)
    if region_config is not None:
        attach(model, region_config, checkpoint=path)
    context_len = getattr(model.config, "max_sequence_length", 2048)
    return tokenizer, model.eval(), model.get_vision_tower().image_processor, context_len


def _load_llava(path: str, dtype: torch.dtype, device: torch.device, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    from transformers import AutoConfig

    from pvit_ext.hosts.llava.classes import region_class_of_config
    from pvit_ext.hosts.llava.tokenizer import load_tokenizer

    model_class = region_class_of_config(AutoConfig.from_pretrained(path))
    tokenizer = load_tokenizer(path, use_fast=model_class.fast_tokenizer)
    model = model_class.from_pretrained(path, torch_dtype=dtype, low_cpu_mem_usage=True, **kwargs)
    _add_image_tokens(tokenizer, model)
    tower = model.get_vision_tower()
    if tower is None:
        raise ValueError(f"{path} is a language model without an image tower, not a LLaVA checkpoint")
    if not tower.is_loaded:
        tower.load_model()
    if "device_map" not in kwargs:
        model.to(device)
    tower.to(device=device, dtype=dtype)
    return tokenizer, model


def _add_image_tokens(tokenizer: Any, model: Any) -> None:
    """As LLaVA's builder does, from the same config keys and with the same defaults."""
    from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN

    if getattr(model.config, "mm_use_im_patch_token", True):
        tokenizer.add_tokens([DEFAULT_IMAGE_PATCH_TOKEN], special_tokens=True)
    if getattr(model.config, "mm_use_im_start_end", False):
        tokenizer.add_tokens([DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN], special_tokens=True)
    if model.get_input_embeddings().num_embeddings != len(tokenizer):
        model.resize_token_embeddings(len(tokenizer))


def _base_of(modules: str, base: str | None) -> str:
    base = base or read_region_config(modules)[1]
    if base is None:
        raise FileNotFoundError(
            f"{modules} holds region modules only: name the LLaVA checkpoint they belong to (base=...)"
        )
    if Path(base).is_absolute() and not Path(base).is_dir():
        raise FileNotFoundError(
            f"{modules} belongs to {base}, which is not there: name the checkpoint's folder (base=...)"
        )
    return base
