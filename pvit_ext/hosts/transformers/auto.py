"""transformers' Auto classes give folders with regions their region class, after ``import pvit_ext``.

Only a config with our nested key changes what they return. Nothing is imported here: where transformers is not loaded
yet, its module is changed as it loads.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from pvit_ext.hosts.transformers.keys import HOST_KEY

TARGET, NAME = "transformers.models.auto.auto_factory", "_get_model_class"
"""The function by which every Auto class finds a model's class from its config."""


def watch() -> None:
    """Change the Auto classes, now or when they are loaded; twice is once."""
    if TARGET in sys.modules:
        install(sys.modules[TARGET])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def install(module: ModuleType) -> None:
    """Let the function of a loaded module return region classes; a version without it stays as it is."""
    stock: Any = getattr(module, NAME, None)
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
    setattr(module, NAME, get_model_class)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            install(module)

        loader.exec_module = exec_module
        return spec
