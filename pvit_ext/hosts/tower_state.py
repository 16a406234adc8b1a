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


def _mixed_precision() -> tuple[bool, ...]:
    try:
        return tuple(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))
    except TypeError:  # before torch 2.4 it has no argument
        return torch.is_autocast_enabled(), torch.is_autocast_cpu_enabled()


def _values(image_processor: Any) -> str:
    if image_processor is None:
        return ""
    values = image_processor.to_dict() if hasattr(image_processor, "to_dict") else vars(image_processor)
    return json.dumps(values, sort_keys=True, default=str)
