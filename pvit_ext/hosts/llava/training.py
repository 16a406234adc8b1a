"""A LLaVA to train, and its data, made by LLaVA's own methods.

New weights are drawn in the order in which LLaVA's ``train()`` draws them: language model, LoRA, mm_projector. So a run
with the same seed has the same losses.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from llava import conversation
from torch import nn
from transformers import AutoTokenizer, PretrainedConfig

from pvit_ext.adapters.lora import add_lora
from pvit_ext.adapters.quantization import Quantization
from pvit_ext.distributed import loading
from pvit_ext.hosts.llava import compat, cpu_launch
from pvit_ext.hosts.llava.classes import (
    ByModelType,
    LlavaMptForCausalLM,
    initialize_vision_modules,
    region_class_of_values,
)
from pvit_ext.hosts.llava.image_layout import ImageLayout, freeze_unread_newline, set_pinpoints
from pvit_ext.hosts.llava.patching import PREPROCESS_POINTS, TOWER_POINTS, patched
from pvit_ext.hosts.llava.quantizing import unquantized
from pvit_ext.hosts.llava.vision_tower import VisionTower, match_trained_tower
from pvit_ext.tokens.processor import RegionProcessor

logger = logging.getLogger(__name__)


@contextmanager
def llava_names() -> Iterator[None]:
    """Rebind the globals of LLaVA's functions to ours for the time of a run, and restore the conversation template.

    Its builder of vision towers knows CLIP alone. Its preprocessing, which runs until the last sample is read,
    tokenises and masks by names of its module.
    """
    template = conversation.default_conversation
    try:
        with patched((*TOWER_POINTS, *PREPROCESS_POINTS)):
            yield
    finally:
        conversation.default_conversation = template


def load_language_model(path: str, arguments: Any, attn_implementation: str | None = None) -> Any:
    """A LLaVA checkpoint, or a plain language model to make one of, as the arguments want it for training.

    Args:
        path: folder or hub id.
        arguments: LLaVA's training arguments.
        attn_implementation: as transformers takes it.

    Raises:
        ValueError: for an attention of MPT, which has one of its own.
    """
    options: dict[str, Any] = {"cache_dir": arguments.cache_dir}
    if _is_mpt(path):  # LLaVA trains that in float32 always
        if attn_implementation is not None:
            raise ValueError(f"{path} is an MPT, whose attention is its own: drop --attn_implementation")
    else:
        dtype = torch.bfloat16 if arguments.bf16 else None
        options |= {"attn_implementation": attn_implementation, "torch_dtype": dtype}
    if (quantization := Quantization.of_arguments(arguments)) is not None:
        skipped = unquantized(region_class_of_values(PretrainedConfig.get_config_dict(path)[0], path, plain=True))
        compute = torch.bfloat16 if arguments.bf16 else torch.float32
        options |= quantization.options(compute, arguments.device, skipped)
    with loading():
        model = ByModelType.from_pretrained(path, **options)
    model.config.use_cache = False
    if arguments.gradient_checkpointing:
        model.enable_input_require_grads()
    return model


def add_adapter(model: Any, arguments: Any) -> Any:
    """peft's wrapper around a model, with LoRA on every linear layer of the language model's blocks."""
    if arguments.bits == 16 and (arguments.bf16 or arguments.fp16):
        model.to(torch.float16 if arguments.fp16 else torch.bfloat16)
    return add_lora(model, arguments)


def load_tokenizer(path: str, version: str, model: Any, arguments: Any) -> Any:
    """The tokenizer, padding on the right as LLaVA trains, and the conversation template of that name in use.

    Args:
        path: folder or hub id.
        version: ``--version``; with ``v0`` and ``v0.5`` LLaVA stays with its default template.
        model: its embeddings grow where ``v0`` adds a token to pad with.
        arguments: LLaVA's training arguments.
    """
    form = {} if _is_mpt(path) else {"use_fast": False}
    limits = {"model_max_length": arguments.model_max_length, "padding_side": "right"}
    tokenizer = AutoTokenizer.from_pretrained(path, cache_dir=arguments.cache_dir, **limits, **form)
    if version != "v0" or tokenizer.pad_token is None:  # LLaVA adds [PAD] for v0, a row that no LoRA result keeps
        tokenizer.pad_token = tokenizer.unk_token
    if version not in ("v0", "v0.5"):
        conversation.default_conversation = conversation.conv_templates[version]
    return tokenizer


def add_vision(model: Any, tokenizer: Any, model_args: Any, data_args: Any, arguments: Any) -> None:
    """Add vision tower, mm_projector and region modules, and tell the data what they have to know of them.

    Args:
        model: from :func:`load_language_model`.
        tokenizer: gets the tokens that the arguments ask for.
        model_args: LLaVA's, with regions.
        data_args: LLaVA's, with regions; gets the tower's image processor.
        arguments: LLaVA's training arguments; gets ``tune_mm_mlp_adapter``.
    """
    initialize_vision_modules(model.get_model(), model_args=model_args, fsdp=arguments.fsdp)
    tower = model.get_vision_tower()
    device = tower.device if tower.device.type == "meta" else arguments.device  # an outline stays without weights
    tower.to(dtype=torch.bfloat16 if arguments.bf16 else torch.float16, device=device)
    data_args.image_processor, data_args.is_multimodal = tower.image_processor, True
    data_args.mm_use_im_start_end = model_args.mm_use_im_start_end
    arguments.tune_mm_mlp_adapter = model_args.tune_mm_mlp_adapter
    stored = {
        "image_aspect_ratio": data_args.image_aspect_ratio,
        "tokenizer_padding_side": tokenizer.padding_side,
        "tokenizer_model_max_length": tokenizer.model_max_length,
        "tune_mm_mlp_adapter": model_args.tune_mm_mlp_adapter,
        "freeze_mm_mlp_adapter": arguments.freeze_mm_mlp_adapter,
        "mm_use_im_start_end": model_args.mm_use_im_start_end,
        "mm_use_im_patch_token": model_args.mm_use_im_patch_token,
        "mm_projector_lr": arguments.mm_projector_lr,
    }
    for name, value in stored.items():
        setattr(model.config, name, value)
    _freeze_by_flags(model, arguments)
    model.initialize_vision_tokenizer(model_args, tokenizer=tokenizer)


def _freeze_by_flags(model: Any, arguments: Any) -> None:
    """Freeze by LLaVA's own flags; what ``--stage`` freezes comes on top."""
    projector, tower = model.get_model().mm_projector, model.get_vision_tower()
    if arguments.lora_enable and isinstance(tower, VisionTower):
        # peft has frozen one that came with the checkpoint, but not one that was made just now
        tower.requires_grad_(False)
        if not tower.frozen:
            logger.warning(
                "--lora_enable True: the vision tower %s stays frozen; it trains only in a stage without LoRA",
                tower.vision_tower_name,
            )
    if arguments.tune_mm_mlp_adapter:
        model.requires_grad_(False)
        projector.requires_grad_(True)
    if arguments.freeze_mm_mlp_adapter:
        projector.requires_grad_(False)


def fit_to_machine(model: Any) -> None:
    """Give the vision tower a dtype that this machine and training can use, and ZeRO-3 what it needs."""
    cpu_launch.cpu_tower_dtype(model)
    match_trained_tower(model)
    compat.fit_zero3(model)


def connect_data(dataset: Any, model: Any, arguments: Any) -> None:
    """Tell the dataset of the model and run that it is for: its workers preprocess for the region encoder.

    Raises:
        ValueError: when the tiles of ``--image_aspect_ratio anyres`` are not known.
    """
    dataset.bad_records.open(arguments.output_dir)
    dataset.region_processor = RegionProcessor.of(model.region_module)
    dataset.seed = arguments.seed
    set_pinpoints(model, dataset.data_args)
    freeze_unread_newline(model)
    dataset.layout = ImageLayout.of(model)


def parts(model: Any) -> dict[str, nn.Module]:
    """The modules beside the language model, by the names that the table at the start gives them."""
    return {"vision tower": model.get_vision_tower(), "mm_projector": model.get_model().mm_projector}


def region_class_of(path: str) -> Any:
    """The region class of a LLaVA checkpoint, or of a plain language model to make one of.

    Raises:
        ValueError: for any other checkpoint.
    """
    values, _ = PretrainedConfig.get_config_dict(path)
    return region_class_of_values(values, path, plain=True)


def _is_mpt(path: str) -> bool:
    return region_class_of(path) is LlavaMptForCausalLM
