"""Packages that add something: found by entry point, or imported because ``--plugin MODULE`` names them.

What a package may offer, each under a name of its own:

============================ ==============================================================
entry-point group            object
============================ ==============================================================
``pvit_ext.hosts``           :class:`~pvit_ext.hosts.find.ModelHost`
``pvit_ext.region_encoders`` builder, see :func:`~pvit_ext.register_region_encoder`
``pvit_ext.vision_towers``   builder, see :func:`~pvit_ext.register_vision_tower`
``pvit_ext.data_formats``    class, see :mod:`pvit_ext.data.convert.base`
``pvit_ext.training_hosts``  maker of a :class:`~pvit_ext.training.contract.TrainingHost`
``pvit_ext.eval_tasks``      class, see :mod:`pvit_ext.evaluation.task`
``pvit_ext.data_tasks``      class, see :mod:`pvit_ext.data.tasks.base`
``pvit_ext.lora_methods``    :class:`~pvit_ext.adapters.methods.LoraMethod`
============================ ==============================================================

A module given by ``--plugin`` registers what it has with the decorators while it is imported.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

BuilderT = TypeVar("BuilderT")
GivenT = TypeVar("GivenT")
FLAG = "--plugin"
taken: list[str] = []
"""Modules that were imported for it, in order."""


class Registry(dict[str, BuilderT]):
    """Builders, or other objects, by name: registered in this process or offered by an installed package.

    Args:
        kind: what they build, for messages.
        group: of the entry points.
    """

    def __init__(self, kind: str, group: str) -> None:
        super().__init__()
        self.kind, self.group = kind, group

    def add(self, name: str, builder: BuilderT) -> None:
        """Register a builder.

        Raises:
            ValueError: if the name is taken.
        """
        if name in self:
            raise ValueError(f"{self.kind} {name!r} is already registered by {self[name]!r}")
        self[name] = builder

    def register(self, name: str) -> Callable[[GivenT], GivenT]:
        """A decorator that registers a builder under a name, and leaves it as it is.

        Raises:
            ValueError: if the name is taken.
        """

        def add(builder: GivenT) -> GivenT:
            self.add(name, cast("BuilderT", builder))
            return builder

        return add

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self, *(point.name for point in self._points())})

    def find(self, name: str) -> BuilderT | None:
        """The builder of a name, imported if need be, or None."""
        if name in self:
            return self[name]
        for point in self._points():
            if point.name == name and name not in self:
                builder = point.load()  # may register itself while it is imported
                self.setdefault(name, builder)
        return self.get(name)

    def require(self, name: str) -> BuilderT:
        """The builder of a name.

        Raises:
            ValueError: for an unknown name, with the known ones.
        """
        if (builder := self.find(name)) is None:
            known = ", ".join(self.names())
            raise ValueError(f"unknown {self.kind} {name!r}; known: {known}; {FLAG} MODULE imports a module with more")
        return builder

    def name_of(self, builder: BuilderT) -> str:
        """The name of a builder that :meth:`require` returned."""
        return next(name for name in self.names() if self.require(name) is builder)

    def _points(self) -> Sequence[Any]:
        return _installed(self.group, tuple(sys.path))


@functools.cache
def _installed(group: str, path: tuple[str, ...]) -> Sequence[Any]:
    """The entry points of a group on the path: to find them each package's files are read, 15 ms for a hundred."""
    return list(importlib.metadata.entry_points(group=group))


def take_plugins(arguments: Sequence[str]) -> list[str]:
    """Import the modules that a command line names by ``--plugin MODULE``, and return the line without them.

    Modules are looked for in the current folder too, as ``python -m`` does.

    Raises:
        ValueError: for a module that cannot be imported.
    """
    rest, modules = [], []
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag != FLAG:
            rest.append(word)
            continue
        module = value if equals else next(words, "")
        if not module or module.startswith("-"):
            raise ValueError(f"{FLAG} takes the name of a module, such as {FLAG} my_package.encoders")
        modules.append(module)
    for module in modules:
        _import(module)
        taken.append(module)
    return rest


def _import(module: str) -> None:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{FLAG} {module}: {error}; name a module that Python finds from here, with dots") from error
