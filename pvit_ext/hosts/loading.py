"""Getting a model with regions, of any host: load a checkpoint, or attach a region encoder to a loaded model."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from pvit_ext.config import EncoderFacts, RegionConfig
from pvit_ext.hosts.checkpoint_kind import CheckpointKind, find_kind, lowest_checkpoint
from pvit_ext.hosts.find import Loaded, host_of, host_of_checkpoint
from pvit_ext.hosts.load_call import LoadCall, name_positional
from pvit_ext.hosts.pillow_advice import without_pillow_advice
from pvit_ext.hosts.precision import SLOW, computes_slowly

logger = logging.getLogger(__name__)


def attach(
    model: Any,
    config: RegionConfig,
    checkpoint: str = ".",
    filled_later: bool = False,
    facts: EncoderFacts | None = None,
    processor: Any = None,
) -> Any:
    """Give a loaded model a region encoder, in place; an encoder it has is replaced.

    What the config does not say stays: the conversation template, box embedding, cross layers, kind of projector,
    delimiters and LION's options, and for an encoder of the same name its options and weights. So an encoder that the
    config names is kept unless other options or another weights file are said, and then the log says that it starts
    anew. Each part of the region projector is kept where its width fits the new encoder; the log names the parts that
    are new. Language model, vision tower and image projector are not touched. If the new encoder cannot be built,
    nothing changes.

    Args:
        model: stock or region-enabled model of LLaVA, or of transformers.
        config: which encoder, with which weights.
        checkpoint: folder in which a relative ``config.weights`` is looked up too.
        filled_later: :func:`~pvit_ext.load_region_modules` follows; a weights file whose tensors it brings is not read.
        facts: stored with a config that was read from a checkpoint; the weights file has to have its checksum.
        processor: of a model of transformers, whose tokenizer gets the token ``<region>``; LLaVA's need none.

    Returns:
        The same model.

    Raises:
        TypeError: for a model of no known host, or a config that is none.
        ValueError: when the encoder cannot be built, or the model takes no regions.
    """
    if not isinstance(config, RegionConfig):
        raise TypeError(f"config is a {type(config).__name__}: give pvit_ext.RegionConfig(encoder=...)")
    if not isinstance(checkpoint, (str, os.PathLike)):
        raise TypeError(f"checkpoint is a {type(checkpoint).__name__}: give a folder; processor= is given by its name")
    return host_of(model).attach(model, config, checkpoint, filled_later, facts, processor)


def load_pretrained_model(
    path: str = "",
    base: str | None = None,
    *positional: Any,
    region_config: RegionConfig | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    **kwargs: Any,
) -> tuple[Any, Any, Any, int]:
    """Load tokenizer, model, processor and context length, like LLaVA's function of this name, with regions.

    The checkpoint decides the host, LLaVA or transformers. The third value is LLaVA's image processor, or the region
    processor of a model of transformers.

    LLaVA's own calls work. A text as third argument is its ``model_name``, which is not needed: the files say what kind
    a checkpoint is. Any other third argument is ``region_config``. ``model_path``, ``model_base``, ``torch_dtype`` and
    ``use_flash_attn`` mean the same as in LLaVA. ``load_8bit``, ``load_4bit`` and what follows them in LLaVA's function
    may be positional, as there.

    Args:
        path: a checkpoint, or what was trained on one: a folder of :func:`~pvit_ext.save_region_modules` (the output
            of stage 1), of a LoRA run (LLaVA's or ours; it is merged), or with LLaVA's ``mm_projector.bin``.
        base: checkpoint under such a folder; by default the one it names.
        positional: ``region_config``, ``device`` and ``dtype``, or what LLaVA's function takes here.
        region_config: attach this encoder, in place of the checkpoint's if it has one.
        device: default CUDA if there is one, else CPU.
        dtype: default float16 on CUDA (bfloat16 for a checkpoint of transformers that is of it), float32 on CPU;
            ``"bfloat16"`` is ``torch.bfloat16``.
        kwargs: passed to ``from_pretrained`` (``attn_implementation``, ``device_map``, ...).

    Raises:
        FileNotFoundError: when there is no such folder, or its base is missing or not known.
        TypeError: for an argument that neither this function nor ``from_pretrained`` takes.
        ValueError: when the folder holds no checkpoint of a known host, an argument cannot be met, or ``device`` is
            CUDA where there is none.
    """
    given = {**kwargs, "region_config": region_config, "device": device, "dtype": dtype}
    given = name_positional(path, positional, given)
    config, device, dtype = (given.pop(name) for name in ("region_config", "device", "dtype"))
    call = LoadCall.of(path, base, config, device, dtype, given)
    kind = find_kind(call.path, call.base)
    kind.announce()
    with without_pillow_advice():
        return _load(kind, call)


def _load(kind: CheckpointKind, call: LoadCall) -> tuple[Any, Any, Any, int]:
    host = host_of_checkpoint(kind)
    if computes_slowly(call.device, call.dtype):
        logger.warning('%s: load_pretrained_model(..., dtype="float32"), or --dtype float32, is faster here', SLOW)
    with _naming_arguments(call.kwargs), fitting(kind):
        loaded: Loaded = host.load(kind, call)
    if call.region_config is not None:
        host.attach(loaded.model, call.region_config, call.path, False, None, loaded.processor)
    return loaded.tokenizer, loaded.model, loaded.processor, loaded.context_len


def dtype_of_load(
    path: str,
    base: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
) -> torch.dtype:
    """The dtype of the model that :func:`load_pretrained_model` makes of the same arguments, without loading it.

    Args:
        path, base, device, dtype: as there.
    """
    call = LoadCall.of(path, base, None, device, dtype, {})
    kind = find_kind(call.path, call.base)
    return host_of_checkpoint(kind).dtype(lowest_checkpoint(kind), call)


def check_conv_version(path: str, base: str | None, conv_version: str | None) -> None:
    """Refuse a conversation template that a checkpoint cannot be asked with, without loading it.

    Args:
        path, base: as of :func:`load_pretrained_model`.
        conv_version: name of a template; None for the usual one.

    Raises:
        ValueError: when there is no such template.
    """
    if conv_version is None:
        return
    host = host_of_checkpoint(find_kind(path, base))
    if hasattr(host, "check_conv_version"):  # of a package that was written before there was this method
        host.check_conv_version(conv_version)


@contextmanager
def fitting(kind: CheckpointKind) -> Iterator[None]:
    """Say of sizes that differ that the base is another; torch and transformers do so in a traceback.

    Args:
        kind: what the block loads.

    Raises:
        ValueError: naming both, and what it was trained on.
    """
    try:
        yield
    except RuntimeError as error:
        # torch and transformers call other sizes so; memory, or versions of CUDA, say nothing of the base
        if kind.base is None or not re.search("size mismatch|mismatched_sizes", str(error)):
            raise
        sizes = re.findall(r"size mismatch for [^\n]+", str(error))[:1] or ["tensors of other sizes, reported above"]
        trained = f"; it was trained on {kind.recorded}, name that or a model of its sizes" if kind.recorded else ""
        raise ValueError(f"{kind.path} does not fit its base, {kind.base}: {sizes[0].strip()}{trained}") from error


@contextmanager
def _naming_arguments(given: Mapping[str, Any]) -> Iterator[None]:
    """Say of a caller's argument that it is none; transformers names the constructor of a model."""
    try:
        yield
    except TypeError as error:
        found = re.search(r"(?:unexpected keyword|multiple values for keyword) argument '(\w+)'", str(error))
        if found is None or found[1] not in given:
            raise
        raise TypeError(
            f"load_pretrained_model takes no {found[1]}=: leave it out, or look at its spelling (what it does not know "
            f"goes to from_pretrained, which says: {error})"
        ) from error
