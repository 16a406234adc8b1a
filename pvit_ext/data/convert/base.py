"""The contract of a format, and the registry of formats.

A format is made in the main process, which lists its units in order, and is then sent to the workers, which read them::

    class MyFormat(DataFormat):
        name = "mine"
        about = "one JSON file of boxes an image"
        settings = {"split": Setting("", "part of the data, default all")}

        @classmethod
        def detect(cls, peek): ...          # Evidence or None
        def units(self): ...                # small picklable values, in order
        def read(self, unit, notes): ...    # AnnotatedImage of each; notes.drop(...) for all that is left out

Offer it as an entry point of the group ``pvit_ext.data_formats``, or register it with :func:`register_data_format` in
a module that ``--plugin`` imports. :class:`~pvit_ext.data.convert.json_items.JsonItems` does the units of JSON arrays
and JSON Lines.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.convert.image_folder import ImageFolder
from pvit_ext.data.convert.notes import Notes
from pvit_ext.data.convert.peek import Peek
from pvit_ext.plugins import Registry

GROUP = "pvit_ext.data_formats"


class SourceError(ValueError):
    """A source that cannot be read as the format that was asked for, with what to do."""


@dataclass(frozen=True)
class Evidence:
    """Why a source seems to be of a format.

    Args:
        confidence: 0..1; 1 where nothing else writes such a thing, 0.5 where others might.
        why: what was seen, as the end of "it has ...".
    """

    confidence: float
    why: str


@dataclass(frozen=True)
class Setting:
    """Something a format lets the user choose with ``--set NAME=VALUE``.

    Args:
        default: used where it is not given.
        about: one line for the help.
        choices: all values it takes, None for any text.
    """

    default: str
    about: str
    choices: tuple[str, ...] | None = None


@dataclass(frozen=True)
class ReadOptions:
    """What a format needs beside its source.

    Args:
        image_folder: that the images lie in.
        settings: the format's own, as ``NAME=VALUE`` gave them.
        exclude_leaks: leave images out that the source itself says are of val or test, where no part is asked for.
    """

    image_folder: ImageFolder
    settings: Mapping[str, str] = field(default_factory=dict)
    exclude_leaks: bool = True


class DataFormat(ABC):
    """A format of annotations; made with its source, and picklable from then on.

    Args:
        source: file or folder.
        options: the image folder and the format's settings.

    Raises:
        SourceError: for a setting or a source that the format does not know.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    """What SOURCE is, in one line."""
    settings: ClassVar[Mapping[str, Setting]] = {}
    closed: ClassVar[bool] = False
    """Whether labels are of a closed list of classes of which the source marks every object; else a label may be any
    word, or objects without a mark are usual, as in data of sentences."""

    def __init__(self, source: Path, options: ReadOptions) -> None:
        self.source, self.image_folder = source, options.image_folder
        self.chosen = self._choose(options.settings)
        self.exclude_leaks = options.exclude_leaks

    def __getstate__(self) -> dict[str, Any]:
        """The state that workers are sent: without values of cached properties, such as long lists of files."""
        return {key: value for key, value in vars(self).items() if not _is_cached(type(self), key)}

    @classmethod
    @abstractmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Whether a source seems to be of this format."""

    @abstractmethod
    def units(self) -> Iterator[Any]:
        """What the source is read in, in order: picklable, and cheap to list again.

        Raises:
            SourceError: for a source that is damaged as a file, or of another format.
        """

    @abstractmethod
    def read(self, unit: Any, notes: Notes) -> Iterator[AnnotatedImage]:
        """The images of a unit, in any process.

        Args:
            unit: one of :meth:`units`.
            notes: takes everything that is left out.

        Raises:
            BadItem: when the unit as a whole breaks the format's rules; what breaks them alone is noted.
        """

    def total(self) -> int | None:
        """How many units there are, for the progress bar; None if that is not known."""
        return None

    def classes(self) -> Sequence[str] | None:
        """The list of classes where it is :attr:`closed`, else None; empty where the source does not hold it.

        Known once :meth:`units` has begun.
        """
        return () if self.closed else None

    def held_out(self) -> Mapping[str, str]:
        """Photographs that the source says are of val or test, with the part; see :mod:`pvit_ext.data.held_out`.

        Known once :meth:`units` has begun.
        """
        return {}

    def remarks(self) -> list[str]:
        """What the user should know about how the source was understood, a sentence each."""
        return []

    def files(self) -> list[Path]:
        """The files that are read, images aside: when one changes, a conversion starts anew."""
        return [self.source]

    def fingerprint(self) -> str:
        """Names the state of the source's files and the settings."""
        digest = hashlib.sha256(repr((self.name, sorted(self.chosen.items()))).encode())
        for path in self.files():
            try:
                stat = path.stat()
            except FileNotFoundError as error:
                raise SourceError(f"{path}: there is no such file or folder") from error
            digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _choose(self, given: Mapping[str, str]) -> dict[str, str]:
        for key, value in given.items():
            if (setting := self.settings.get(key)) is None:
                known = ", ".join(self.settings) or "none"
                raise SourceError(f"{self.name} has no setting {key!r}; it has: {known}")
            if setting.choices is not None and value not in setting.choices:
                raise SourceError(f"{self.name}: {key} is one of {', '.join(setting.choices)}, got {value!r}")
        return {key: given.get(key, setting.default) for key, setting in self.settings.items()}


def _is_cached(kind: type, key: str) -> bool:
    return isinstance(getattr(kind, key, None), cached_property)


FORMATS: Registry[type[DataFormat]] = Registry("data format", GROUP)


register_data_format = FORMATS.register
"""Decorator that registers a format for ``pvit-ext data convert``, under its name."""
