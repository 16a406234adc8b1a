"""What is mixed: a YAML file, or the same from a preset."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvit_ext.files import read_yaml

AMOUNTS = ("weight", "count", "at_most")
_KEYS = ("files", "tasks", "images", *AMOUNTS)
_TOP = ("sources", "seed", "held_out")
_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True)
class MixSource:
    """One source of a mixture.

    Args:
        name: of the source, put before its records' ids.
        files: training files, read as one.
        weight: how often each record is taken: 2 twice, 0.5 every second. Used where neither of the others is given.
        count: so many records; some are taken again where the source has fewer.
        at_most: so many records, or all where the source has fewer.
        tasks: take records of these tasks alone; empty for all.
        images: put before the images' names, where the source's image folder lies in that of training.
    """

    name: str
    files: tuple[Path, ...]
    weight: float = 1.0
    count: int | None = None
    at_most: int | None = None
    tasks: tuple[str, ...] = ()
    images: str = ""

    def amount(self, usable: int) -> int:
        """How many records are taken of so many."""
        if self.count is not None:
            return self.count
        if self.at_most is not None:
            return min(self.at_most, usable)
        return max(round(self.weight * usable), 1)


@dataclass(frozen=True)
class Mix:
    """What is mixed.

    Args:
        origin: file or preset that says so.
        sources: one or more, of different names.
        seed: chooses which records are taken.
        held_out: files of evaluation data.
        file: that says so, if it is one.
    """

    origin: str
    sources: tuple[MixSource, ...]
    seed: int = 0
    held_out: tuple[Path, ...] = ()
    file: Path | None = field(default=None, repr=False, compare=False)


def read_mix(path: Path) -> Mix:
    """The mixture of a YAML file; paths in it are relative to it.

    Raises:
        ValueError: naming the file and the key, for anything that is not as it is documented.
    """
    value = read_yaml(path)
    try:
        return _parse(value, path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _parse(value: Any, path: Path) -> Mix:
    fields = _mapping(value, "the file", _TOP)
    sources = fields.get("sources")
    if not isinstance(sources, Mapping) or not sources:
        raise ValueError(f"sources is a mapping of names to sources, one or more, got {_short(sources)}")
    seed = fields.get("seed", 0)
    if type(seed) is not int:
        raise ValueError(f"seed is a whole number, got {_short(seed)}")
    held_out = _texts(fields["held_out"], "held_out") if "held_out" in fields else ()
    found = tuple(parse_source(name, one, path.parent) for name, one in sources.items())
    return Mix(path.name, found, seed, tuple(path.parent / one for one in held_out), path)


def parse_source(name: Any, value: Any, folder: Path) -> MixSource:
    """A source of its YAML.

    Args:
        name: of the source.
        value: its mapping, or its file or list of files.
        folder: that paths are relative to.

    Raises:
        ValueError: naming the source and the key.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"a source's name is letters, digits, '_', '-' and '.', got {_short(name)}")
    if isinstance(value, (str, list)):
        value = {"files": value}
    what = f"source {name!r}"
    fields = _mapping(value, what, _KEYS)
    if "files" not in fields:
        raise ValueError(f"{what} has no files; write files: FILE, or a list of them")
    given = [key for key in AMOUNTS if key in fields]
    if len(given) > 1:
        raise ValueError(f"{what} has {' and '.join(given)}; give one of {', '.join(AMOUNTS)}")
    images = fields.get("images", "")
    if not isinstance(images, str) or images.startswith("/") or ".." in images.split("/"):
        raise ValueError(f"{what}: images is a folder in the image folder of training, got {_short(images)}")
    files = tuple(folder / file for file in _texts(fields["files"], f"{what}: files"))
    if len(set(files)) < len(files):
        raise ValueError(f"{what} names a file twice; to take its records twice, write weight: 2")
    tasks = _texts(fields["tasks"], f"{what}: tasks") if "tasks" in fields else ()
    amounts: dict[str, Any] = {
        key: (_weight if key == "weight" else _count)(fields[key], f"{what}: {key}") for key in given
    }
    return MixSource(name, files, tasks=tasks, images=images.strip("/"), **amounts)


def _weight(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise ValueError(
            f"{what} is how often each record is taken, a number above 0 (2 twice, 0.5 every second), got "
            f"{_short(value)}; leave a source out that nothing is taken of"
        )
    return float(value)


def _count(value: Any, what: str) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"{what} is a whole number of records, 1 or more, got {_short(value)}")
    return value


def _texts(value: Any, what: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) and one for one in texts):
        raise ValueError(f"{what} is a text or a list of texts, got {_short(value)}")
    return tuple(texts)


def _mapping(value: Any, what: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} is a mapping with the keys {', '.join(known)}, got {_short(value)}")
    if unknown := [key for key in value if key not in known]:
        raise ValueError(f"{what} has the key {_short(unknown[0])}; known are {', '.join(known)}")
    return value


def _short(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:60]
