"""A checkpoint of transformers' own without its weights and its processor: what config.json alone tells of it."""

from __future__ import annotations

from typing import Any

import torch

from pvit_ext.config import CONFIG_KEY
from pvit_ext.hosts.transformers.facts import HostFacts
from pvit_ext.hosts.transformers.keys import HOST_KEY
from pvit_ext.hosts.transformers.loading import model_class


def outline_checkpoint(path: str, dtype: torch.dtype, attn_implementation: str | None = None) -> Any:
    """A model without regions on the meta device, ready for :func:`pvit_ext.attach` without a processor.

    Args:
        path: folder or hub id with config.json.
        dtype: of the model.
        attn_implementation: as transformers takes it.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path)
    for key in (CONFIG_KEY, HOST_KEY):
        if hasattr(config, key):
            delattr(config, key)
    options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    with torch.device("meta"):
        model = model_class(config)._from_config(config, **options).to(dtype)
    setattr(model.config, HOST_KEY, HostFacts(0, (0.0,) * 3, (1.0,) * 3).to_json())  # no image is prepared for it
    return model
