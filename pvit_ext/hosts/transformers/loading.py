"""Loading a checkpoint of transformers' own, or what was trained on one."""

from __future__ import annotations

import logging
from typing import Any

import torch

from pvit_ext.adapters.lion.feed_forward import CHILD
from pvit_ext.adapters.lora import load_adapter
from pvit_ext.hosts.checkpoint_kind import CheckpointKind, find_kind, note_put_on
from pvit_ext.hosts.find import Loaded
from pvit_ext.hosts.load_call import LoadCall
from pvit_ext.hosts.transformers.attach import attach
from pvit_ext.hosts.transformers.images_only import load_processor
from pvit_ext.hosts.transformers.keys import HOST_KEY
from pvit_ext.hosts.transformers.processor import with_regions_of
from pvit_ext.tokens.serialization import load_region_modules, read_region_config

_NOT_QUANTIZED = [r"(?!model\.language_model\.).*", rf".*\.{CHILD}"]
"""Names of what is not the language model's own; transformers 5 matches them from the start to the end of a level."""

logger = logging.getLogger(__name__)


def load(kind: CheckpointKind, call: LoadCall) -> Loaded:
    """Tokenizer, model, processor and context length; see :func:`pvit_ext.load_pretrained_model`.

    Args:
        kind: what to load.
        call: device, dtype and the like.
    """
    processor, model = load_kind(kind, call)
    context_len = int(model.config.get_text_config().max_position_embeddings)
    return Loaded(processor.tokenizer, model.eval(), processor, context_len)


def load_kind(kind: CheckpointKind, call: LoadCall) -> tuple[Any, Any]:
    """Processor and model of a checkpoint and, if it is none by itself, of the ones under it first.

    Args:
        kind: what to load.
        call: device, dtype and the like.

    Raises:
        ValueError: when parts do not fit together.
    """
    if kind.base is None or kind.folder is None:
        return _load_checkpoint(kind.path, call)
    if kind.projector:
        raise ValueError(f"{kind}, which is one of transformers' own: LLaVA's projector does not belong there")
    call = call.for_adapter(kind.folder) if kind.adapter else call
    under = find_kind(kind.base)
    logger.info("%s", under)
    processor, model = load_kind(under, call)
    if kind.regions:
        saved, folder = read_region_config(kind.folder), str(kind.folder)
        config = saved.config.without_absent_lion()
        attach(model, config, folder, filled_later=True, facts=saved.facts, processor=processor)
        load_region_modules(model, kind.folder)
    if kind.adapter:
        model = load_adapter(model, kind.folder, 16 if call.quantization is None else call.quantization.bits)
    note_put_on(model, kind)
    return processor, model


def model_class(config: Any) -> Any:
    """The class of a checkpoint's model, with regions if its config names them.

    Args:
        config: of the checkpoint.

    Raises:
        ValueError: for a checkpoint without a class for images and text.
    """
    import transformers

    from pvit_ext.hosts.transformers.classes import region_class

    names = [name for name in config.architectures or () if hasattr(transformers, name)]
    if not names:
        raise ValueError(
            f"a checkpoint of type {config.model_type!r} names architectures {config.architectures}, of which "
            f"transformers {transformers.__version__} has none"
        )
    stock = getattr(transformers, names[0])
    return stock if getattr(config, HOST_KEY, None) is None else region_class(stock)


def dtype_of(config: Any, call: LoadCall) -> torch.dtype:
    """The caller's dtype, or by default bfloat16 for a bfloat16 checkpoint, which would overflow in float16.

    Args:
        config: of the checkpoint.
        call: device, dtype and the like.
    """
    own = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    halves = not call.names_dtype and call.dtype == torch.float16
    return torch.bfloat16 if halves and own == torch.bfloat16 else call.dtype


def _load_checkpoint(path: str, call: LoadCall) -> tuple[Any, Any]:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path)
    found = model_class(config)
    processor = with_regions_of(load_processor(path), path)  # what it lacks is said before the model loads
    dtype = dtype_of(config, call)
    model = found.from_pretrained(path, dtype=dtype, **call.model_options(_NOT_QUANTIZED, dtype))
    if not call.places_itself:
        model.to(call.device)
    return processor, model
