"""A LLaVA without its weights, for a run's flags: what config.json of the model and of its vision tower tell of it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoTokenizer, PretrainedConfig

from pvit_ext.config import CONFIG_KEY
from pvit_ext.hosts.llava.classes import load_config, region_class_of_values


@contextmanager
def without_files() -> Iterator[None]:
    """Make LLaVA's modules on the meta device, the vision tower of its config alone, without an image processor."""
    encoder: Any = importlib.import_module("llava.model.multimodal_encoder.clip_encoder")
    stock = encoder.CLIPImageProcessor
    encoder.CLIPImageProcessor = SimpleNamespace(from_pretrained=lambda _: None)
    try:
        with torch.device("meta"):
            yield
    finally:
        encoder.CLIPImageProcessor = stock


def outline_language_model(path: str, model_args: Any, arguments: Any, attn_implementation: str | None = None) -> Any:
    """The model of :func:`~pvit_ext.hosts.llava.training.load_language_model` on the meta device, without regions.

    Its embedding has the rows that it will have when LLaVA has added its tokens for images.

    Args:
        path: folder or hub id with config.json.
        model_args: LLaVA's, with regions.
        arguments: LLaVA's training arguments.
        attn_implementation: as transformers takes it; MPT has one of its own.
    """
    values = {key: value for key, value in PretrainedConfig.get_config_dict(path)[0].items() if key != CONFIG_KEY}
    candidate = region_class_of_values(values, path, plain=True)
    plain = values.get("model_type") == candidate.language_model_class.config_class.model_type
    config = candidate.config_class.from_dict(values) if plain else load_config(path, values)
    config.vocab_size, config.name_or_path = _rows(path, config.vocab_size, model_args), path
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    model = candidate._from_config(config, **options)
    is_mpt = candidate.language_model_class.__name__.startswith("Mpt")  # LLaVA trains that in float32 always
    model.to(torch.bfloat16 if arguments.bf16 and not is_mpt else torch.float32)
    model.config.use_cache = False
    return model


def outline_tokenizer(path: str, version: str, model: Any, arguments: Any) -> Any:
    """What making a model asks of the tokenizer of :func:`~pvit_ext.hosts.llava.training.load_tokenizer`."""
    return _Tokenizer(model.config.vocab_size, arguments.model_max_length)


class _Tokenizer:
    """A tokenizer that has all tokens already.

    Args:
        size: number of its tokens.
        model_max_length: positions that a sample may take.
    """

    padding_side = "right"
    chat_template = None

    def __init__(self, size: int, model_max_length: int) -> None:
        self.size, self.model_max_length = size, model_max_length

    def __len__(self) -> int:
        return self.size

    def add_tokens(self, tokens: Sequence[str], special_tokens: bool = False) -> int:
        """None is new."""
        return 0


def _rows(path: str, rows: int, model_args: Any) -> int:
    """Rows of the embedding in training: those of the tokenizer and LLaVA's tokens, where LLaVA adds any.

    Without a tokenizer's files its tokens are taken to be as many as rows.
    """
    added = int(bool(model_args.mm_use_im_patch_token)) + 2 * int(bool(model_args.mm_use_im_start_end))
    if not added:
        return rows
    from llava.constants import DEFAULT_IM_END_TOKEN, DEFAULT_IM_START_TOKEN, DEFAULT_IMAGE_PATCH_TOKEN

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, ImportError):
        return rows + added
    if model_args.mm_use_im_patch_token:
        tokenizer.add_tokens([DEFAULT_IMAGE_PATCH_TOKEN], special_tokens=True)
    if model_args.mm_use_im_start_end:
        tokenizer.add_tokens([DEFAULT_IM_START_TOKEN, DEFAULT_IM_END_TOKEN], special_tokens=True)
    return len(tokenizer)
