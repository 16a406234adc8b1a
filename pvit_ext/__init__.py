"""Regions as inputs beside the image, for LLaVA: ask about a box, mask, point, polygon or scribble.

Importing this package loads neither torch nor LLaVA: each public name below is imported from its module on first use.
Afterwards transformers' Auto classes load folders with regions as region classes, and all else as before.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pvit_ext.config import RegionConfig
    from pvit_ext.encoders.base import RegionEncoder, RegionInputs, build_region_encoder, register_region_encoder
    from pvit_ext.hosts.llava.patching import apply_pvit, patched, remove_pvit
    from pvit_ext.hosts.llava.vision_tower import VisionTower, register_vision_tower
    from pvit_ext.hosts.loading import attach, load_pretrained_model
    from pvit_ext.inference import ImageFeatures, Query, Score, ask, score
    from pvit_ext.regions.region import Region, RegionError
    from pvit_ext.tokens.serialization import load_region_modules, save_region_modules

    __version__: str

_MODULES = {
    "ImageFeatures": "pvit_ext.inference",
    "Query": "pvit_ext.inference",
    "Region": "pvit_ext.regions.region",
    "RegionConfig": "pvit_ext.config",
    "RegionEncoder": "pvit_ext.encoders.base",
    "RegionError": "pvit_ext.regions.region",
    "RegionInputs": "pvit_ext.encoders.base",
    "Score": "pvit_ext.inference",
    "VisionTower": "pvit_ext.hosts.llava.vision_tower",
    "apply_pvit": "pvit_ext.hosts.llava.patching",
    "ask": "pvit_ext.inference",
    "attach": "pvit_ext.hosts.loading",
    "build_region_encoder": "pvit_ext.encoders.base",
    "load_pretrained_model": "pvit_ext.hosts.loading",
    "load_region_modules": "pvit_ext.tokens.serialization",
    "patched": "pvit_ext.hosts.llava.patching",
    "register_region_encoder": "pvit_ext.encoders.base",
    "register_vision_tower": "pvit_ext.hosts.llava.vision_tower",
    "remove_pvit": "pvit_ext.hosts.llava.patching",
    "save_region_modules": "pvit_ext.tokens.serialization",
    "score": "pvit_ext.inference",
}

__all__ = [
    "ImageFeatures",
    "Query",
    "Region",
    "RegionConfig",
    "RegionEncoder",
    "RegionError",
    "RegionInputs",
    "Score",
    "VisionTower",
    "__version__",
    "apply_pvit",
    "ask",
    "attach",
    "build_region_encoder",
    "load_pretrained_model",
    "load_region_modules",
    "patched",
    "register_region_encoder",
    "register_vision_tower",
    "remove_pvit",
    "save_region_modules",
    "score",
]


importlib.import_module("pvit_ext.hosts.transformers.auto").watch()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = importlib.metadata.version("pvit-ext")
    elif name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module 'pvit_ext' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
