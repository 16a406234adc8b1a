"""Makes transformers' Auto classes return region classes for folders with regions, after ``import pvit_ext``.

Only a folder with our nested key changes what they return. Nothing is imported here: where transformers is not loaded
yet, its modules are changed as they load.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from pvit_ext.config import CONFIG_KEY
from pvit_ext.hosts.transformers.keys import FILE_OPTIONS, HOST_KEY


def watch() -> None:
    """Change the Auto classes, now or when they are loaded; a second call does nothing."""
    for name, change in _CHANGES.items():
        if name in sys.modules:
            change(sys.modules[name])
    if not _CHANGES.keys() <= sys.modules.keys() and not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def change_models(module: ModuleType) -> None:
    """Let the function by which every Auto class finds a model's class return region classes.

    A version without it stays as it is.
    """
    stock: Any = getattr(module, "_get_model_class", None)
    if stock is None or hasattr(stock, HOST_KEY):
        return

    @functools.wraps(stock)
    def get_model_class(config: Any, model_mapping: Any) -> Any:
        found = stock(config, model_mapping)
        if getattr(config, HOST_KEY, None) is None or found.__name__ not in (config.architectures or ()):
            return found
        from pvit_ext.hosts.transformers.classes import region_class

        return region_class(found)

    setattr(get_model_class, HOST_KEY, True)
    module._get_model_class = get_model_class  # type: ignore[attr-defined]


def change_processors(module: ModuleType) -> None:
    """Let ``AutoProcessor`` return region processors, for folders whose processor or model names an encoder."""
    auto: Any = module.AutoProcessor
    stock = auto.from_pretrained.__func__
    if hasattr(stock, HOST_KEY):
        return

    @functools.wraps(stock)
    def from_pretrained(cls: Any, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        path = pretrained_model_name_or_path
        found = stock(cls, path, *args, **kwargs)
        if not _names_regions(found, path, kwargs):
            return found
        from pvit_ext.hosts.transformers.processor import with_regions_of

        return with_regions_of(found, path, **kwargs)

    setattr(from_pretrained, HOST_KEY, True)
    auto.from_pretrained = classmethod(from_pretrained)


def _names_regions(processor: Any, path: Any, kwargs: dict[str, Any]) -> bool:
    """Whether the files of a processor that takes images and text name a region encoder."""
    if not hasattr(processor, "get_processor_dict") or not hasattr(processor, "image_processor"):
        return False
    from transformers import PretrainedConfig

    given = {key: value for key, value in kwargs.items() if key in FILE_OPTIONS}
    if CONFIG_KEY in processor.get_processor_dict(path, **given)[0]:
        return True
    try:
        return CONFIG_KEY in PretrainedConfig.get_config_dict(path, **given)[0]
    except OSError:  # a folder of a processor alone
        return False


_CHANGES: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.auto_factory": change_models,
    "transformers.models.auto.processing_auto": change_processors,
}


class _Finder(MetaPathFinder):
    """Changes modules as they load, each once."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        change = _CHANGES.get(fullname)
        if change is None or fullname in self.seen:
            return None
        self.seen.add(fullname)  # the next line asks all finders again
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            change(module)

        loader.exec_module = exec_module
        return spec
