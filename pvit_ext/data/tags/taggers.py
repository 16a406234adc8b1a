"""Taggers: who says what is in an image. A file of tags, a function of one's own, or a detector."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import posixpath
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

from PIL import Image

from pvit_ext.data.image_files import short
from pvit_ext.data.scan import state_of
from pvit_ext.data.tags.onnx_detector import OnnxDetector
from pvit_ext.data.tags.tags import clean_tags
from pvit_ext.files import read_lines, read_text

THRESHOLD = 0.65
"""Of a detector's score, as in FastestDet's own repository."""
FORMS = "a FILE.json of image names and tags, a detector FILE.onnx, or MODULE:FUNCTION"


class TaggerError(ValueError):
    """A tagger that fails at an image. No record is to blame: the next image would hardly fare better."""


class Tagger(Protocol):
    """Who says what is in an image; picklable, for the workers of a map step."""

    @property
    def reads_images(self) -> bool:
        """Whether it looks at the images; else their names are enough."""
        ...

    @property
    def source(self) -> str:
        """As a user names it."""
        ...

    @property
    def key(self) -> Any:
        """What its tags depend on: an interrupted run goes on only with the same."""
        ...

    def tags(self, name: str, load: Callable[[], Image.Image]) -> list[str] | None:
        """The cleaned tags of an image, None where it knows nothing of it.

        Args:
            name: of the image in its record.
            load: reads the upright image, for a tagger that looks at it.

        Raises:
            TaggerError: naming tagger and image, for tags that are none, and for whatever the tagger itself raises.
            OSError, ValueError: of an image that cannot be loaded.
        """
        ...


@dataclass(frozen=True)
class TagFile:
    """Tags from a JSON object: the name of an image -> its list of tags.

    Args:
        path: of the file. An image is looked up by its name as the record has it, then by its last part.
    """

    path: Path
    reads_images: ClassVar[bool] = False

    @property
    def source(self) -> str:
        """The file."""
        return str(self.path)

    @property
    def key(self) -> Any:
        """The file and its state."""
        return state_of(self.path)

    @cached_property
    def table(self) -> dict[str, Any]:
        """What the file holds.

        Raises:
            ValueError: naming the file, for anything but a JSON object, and for a name that stands there twice.
        """
        text = read_text(self.path)
        try:
            values = json.loads(text, object_pairs_hook=_each_once)
        except ValueError as error:
            raise ValueError(f"{self.path} {error}; correct the file") from error
        if not isinstance(values, dict):
            raise ValueError(f"{self.path} holds a JSON {type(values).__name__}, not an object")
        return values

    def __getstate__(self) -> dict[str, Any]:
        """Without the table, which each process reads for itself."""
        return {"path": self.path}

    def tags(self, name: str, load: Callable[[], Image.Image]) -> list[str] | None:
        """See :class:`Tagger`; the image is not read."""
        found = self._found(name)
        return None if found is None else _cleaned(self.table[found], f"tagger {self.path} on {found}")

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse images that share the tags of one name because its last part is all that they are found by.

        Args:
            names: of all images of the data, in any order.

        Raises:
            ValueError: naming two of them.
        """
        users, by_last_part = dict[str, str](), set[str]()
        for name in map(posixpath.normpath, names):
            if (found := self._found(name)) is None:
                continue
            by_last_part.update([found] if found != name else [])
            other = users.setdefault(found, name)
            if other != name and found in by_last_part:
                raise ValueError(
                    f"{self.path}: the images {other}, {name} would both have the tags of {found!r}: name each image "
                    "there as the records do"
                )

    def _found(self, name: str) -> str | None:
        return next((key for key in (name, Path(name).name) if key in self.table), None)


@dataclass(frozen=True)
class FunctionTagger:
    """Tags from a function that takes an upright RGB image of Pillow and returns a list of texts.

    Args:
        source: ``MODULE:FUNCTION``; modules are looked for in the current folder too.
    """

    source: str
    reads_images: ClassVar[bool] = True

    @property
    def key(self) -> Any:
        """The function and the state of its file, if it has one."""
        function = inspect.unwrap(self._function)
        file = inspect.getsourcefile(function) if inspect.isfunction(function) else None
        return self.source, None if file is None else state_of(file)

    @cached_property
    def _function(self) -> Callable[[Image.Image], Any]:
        module, _, name = self.source.partition(":")
        if os.getcwd() not in sys.path and "" not in sys.path:
            sys.path.append(os.getcwd())
        try:
            found: Any = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"tagger {self.source}: {error}; name a function that Python finds from here") from error
        except Exception as error:  # whatever stands in a user's module
            raise ValueError(f"tagger {self.source}: its module cannot be imported: {_said(error)}") from error
        if not callable(found):
            raise ValueError(f"tagger {self.source} is {short(found)}, not a function of an image")
        function: Callable[[Image.Image], Any] = found
        return function

    def __getstate__(self) -> dict[str, Any]:
        """Without the function, which each process imports for itself."""
        return {"source": self.source}

    def tags(self, name: str, load: Callable[[], Image.Image]) -> list[str] | None:
        """See :class:`Tagger`; None from the function is no answer."""
        image, what = load(), f"tagger {self.source} on {name}"
        try:
            value = self._function(image)
        except Exception as error:  # whatever a user's function raises
            raise TaggerError(f"{what}: {_said(error)}") from error
        return None if value is None else _cleaned(value, what)


@dataclass(frozen=True)
class DetectorTagger:
    """Tags from a detector.

    Args:
        detector: in ONNX.
        names_file: that its names are of, if it is one.
    """

    detector: OnnxDetector
    names_file: Path | None = None
    reads_images: ClassVar[bool] = True

    @property
    def source(self) -> str:
        """The file."""
        return str(self.detector.path)

    @property
    def key(self) -> Any:
        """The file and its state, the names and the threshold."""
        return state_of(self.detector.path), self.detector.names, self.detector.threshold

    def tags(self, name: str, load: Callable[[], Image.Image]) -> list[str] | None:
        """See :class:`Tagger`."""
        image, what = load(), f"tagger {self.source} on {name}"
        try:
            return _cleaned(self.detector(image), what)
        except ValueError as error:
            raise TaggerError(f"{what}: {error}") from error


def load_tagger(source: str, names: str | None = None, threshold: float | None = None) -> Tagger:
    """The tagger that a user names; what can be checked without the images is.

    Args:
        source: a ``FILE.json``, a detector ``FILE.onnx``, or ``MODULE:FUNCTION``.
        names: file of a detector's classes, one a line.
        threshold: of its scores, default :data:`THRESHOLD`.

    Raises:
        ValueError: for another source, and for options that it lacks or has no use for.
        FileNotFoundError: naming a file that is not there.
    """
    kind = Path(source).suffix.lower()
    if kind != ".onnx" and (given := [flag for flag, value in _flags(names, threshold) if value is not None]):
        raise ValueError(f"{' and '.join(given)} belong to a detector (FILE.onnx); leave out for the tagger {source}")
    if kind == ".onnx":
        return _detector(_existing(source), names, THRESHOLD if threshold is None else threshold)
    if kind == ".json":
        file = TagFile(_existing(source))
        file.table  # noqa: B018  a damaged file is said before the first image
        return file
    module, colon, name = source.partition(":")
    if not (module and colon and name.isidentifier()):
        raise ValueError(f"tagger {source!r} is none of: {FORMS}")
    tagger = FunctionTagger(source)
    tagger.key  # noqa: B018  imports the function: a wrong name fails here
    return tagger


def _flags(names: str | None, threshold: float | None) -> list[tuple[str, Any]]:
    return [("--names", names), ("--threshold", threshold)]


def _detector(path: Path, names: str | None, threshold: float) -> Tagger:
    if names is None:
        raise ValueError(f"the tagger {path} needs the names of its classes: --names FILE, one a line")
    if not 0 <= threshold < 1:
        raise ValueError(f"--threshold {threshold}: a score is 0 to 1")
    classes = tuple(read_lines(_existing(names)))
    if not classes:
        raise ValueError(f"--names {names} holds no name")
    _cleaned(classes, f"--names {names}")
    detector = OnnxDetector(path, classes, threshold)
    detector.check()  # a missing package, a damaged file or another model is said before the first image
    return DetectorTagger(detector, _existing(names))


def _existing(path: str) -> Path:
    found = Path(path).expanduser()
    if not found.is_file():
        raise FileNotFoundError(f"{path} is no file")
    return found.absolute()


def _cleaned(value: Any, name: str) -> list[str]:
    plain: Any = list(value) if isinstance(value, (tuple, set, frozenset)) else value
    try:
        return clean_tags(sorted(plain) if isinstance(value, (set, frozenset)) else plain)
    except ValueError as error:
        raise TaggerError(f"{name}: {error}") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict[str, Any]()
    for key, value in pairs:
        if key in values:
            raise ValueError(f"names {key!r} twice: keep one")
        values[key] = value
    return values


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def union(parts: Sequence[Sequence[str]]) -> list[str]:
    """The tags of several images as one list, each once."""
    return clean_tags([tag for part in parts for tag in part])
