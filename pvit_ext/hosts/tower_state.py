"""Whether a tower and its image processor are still what they were: cheap enough to ask before each call."""

from __future__ import annotations

import itertools
import json
from collections.abc import Hashable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

_serials: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_next_serial = itertools.count()
"""Numbers of modules: an ``id`` comes again once a module has been freed."""


def state_of(module: nn.Module, image_processor: Any = None) -> Hashable:
    """Changes whenever the module may compute something else, by training, loading, casting, moving or adapters.

    Args:
        module: a tower.
        image_processor: that prepares images for it.
    """
    serial = _serials.setdefault(module, next(_next_serial))
    tensors = (*module.parameters(), *module.buffers())
    weights = tuple((one.data_ptr(), one._version, one.dtype, str(one.device)) for one in tensors)
    adapters = tuple(str(_adapter(part)) for part in module.modules() if hasattr(part, "active_adapters"))
    around = _mixed_precision(), torch.get_num_threads(), module.training
    return serial, hash(weights), adapters, around, _values(image_processor)


def _adapter(part: nn.Module) -> tuple[Any, ...]:
    names = ("active_adapters", "disable_adapters", "merged_adapters")
    return tuple(getattr(part, name, None) for name in names)


def _mixed_precision() -> tuple[torch.dtype | None, ...]:
    """The dtype of autocast on the CPU and on CUDA, None where it is off."""
    try:
        return tuple(
            torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None for kind in ("cpu", "cuda")
        )
    except (AttributeError, TypeError):  # before torch 2.4 each kind has functions of its own
        cpu = torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
        return cpu, torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def _values(image_processor: Any) -> str:
    if image_processor is None:
        return ""
    values = image_processor.to_dict() if hasattr(image_processor, "to_dict") else vars(image_processor)
    return json.dumps(values, sort_keys=True, default=str)
