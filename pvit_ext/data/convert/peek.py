"""What a source looks like at a glance: looked at once, by every format's ``detect``."""

from __future__ import annotations

import json
import os
import re
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from pvit_ext.data.convert.json_buffer import JsonBuffer, Section
from pvit_ext.data.convert.notes import BadItem

_HEAD = 1 << 16
_LISTED = 5000
_KEYS = 1000
"""Most keys of an object; one with more is a map of items."""
_ROOT = re.compile(r"<(?![?!])([\w:.-]+)")


class Peek:
    """A file or folder.

    Args:
        path: of the source.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.is_folder = path.is_dir()
        self._firsts: dict[str, Any] = {}

    @cached_property
    def head(self) -> str:
        """The beginning of a file as text, empty for a folder."""
        if self.is_folder:
            return ""
        try:
            return JsonBuffer(self.path).read(0, _HEAD).decode("utf-8", "replace").lstrip("\ufeff")
        except BadItem:
            return ""

    @cached_property
    def files(self) -> list[str]:
        """Paths in a folder, relative to it, sorted; the first thousands of a large one."""
        found: list[str] = []
        for folder, folders, names in os.walk(self.path):
            folders.sort()
            inside = os.path.relpath(folder, self.path).replace(os.sep, "/")
            found += (name if inside == "." else f"{inside}/{name}" for name in sorted(names))
            if len(found) > _LISTED:
                break
        return sorted(found) if self.is_folder else []

    def has(self, pattern: str) -> bool:
        """Whether a path in the folder matches a regular expression as a whole."""
        return any(re.fullmatch(pattern, name) for name in self.files)

    @cached_property
    def xml_root(self) -> str:
        """The name of an XML file's first element, empty for another file."""
        text = self.head.lstrip()
        return found[1] if text.startswith("<") and (found := _ROOT.search(text)) else ""

    @cached_property
    def sections(self) -> dict[str, Section]:
        """The first keys of a JSON object that a file is, and where their values lie; empty for any other file."""
        if not self.head.lstrip().startswith("{"):
            return {}
        try:
            return dict(islice(self._buffer.members(), _KEYS))
        except BadItem:
            return {}

    def first(self, key: str) -> dict[str, Any]:
        """The first object in the list under a key, or the object itself; empty where there is none."""
        if key not in self._firsts:
            section = self.sections.get(key)
            self._firsts[key] = {} if section is None else self._object(section)
        found: dict[str, Any] = self._firsts[key]
        return found

    @cached_property
    def item(self) -> dict[str, Any]:
        """The first object of a JSON array or of JSON Lines; empty where there is none."""
        text = self.head.lstrip()
        if not text.startswith(("[", "{")):
            return {}
        if text.startswith("{"):
            value = _parsed(text.split("\n", 1)[0])
            return value if isinstance(value, dict) else {}
        try:
            return self._object(self._buffer.items())
        except BadItem:
            return {}

    @cached_property
    def _buffer(self) -> JsonBuffer:
        return JsonBuffer(self.path)

    def _object(self, section: Section) -> dict[str, Any]:
        span = (section.starts[0], section.ends[0]) if section.starts else (section.start, section.end)
        value = _parsed(self._buffer.read(*span).decode("utf-8", "replace"))
        return value if isinstance(value, dict) else {}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
