"""A format that is a JSON array or JSON Lines: one item a unit, each with its line."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.convert.base import DataFormat, ReadOptions
from pvit_ext.data.convert.fields import kept
from pvit_ext.data.convert.json_buffer import JsonBuffer, Section
from pvit_ext.data.convert.notes import BadItem, Notes

Unit = tuple[int, int, int, int]
"""The bytes of an item, its line and its number, both counted from 1."""


class JsonItems(DataFormat):
    """Lists the items; a format reads one."""

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        self.buffer = JsonBuffer(source)

    @cached_property
    def section(self) -> Section:
        """Where the items lie."""
        return self.buffer.items()

    def total(self) -> int:
        """The number of items."""
        return len(self.section.starts)

    def units(self) -> Iterator[Unit]:
        """The bytes of each item, its line and its number."""
        for number, (line, start, end) in enumerate(self.buffer.numbered(self.section), 1):
            yield start, end, line, number

    def read(self, unit: Unit, notes: Notes) -> Iterator[AnnotatedImage]:
        """The images of an item; what breaks the format's rules is named with its line."""
        start, end, line, number = unit
        location = f"{self.source.name} line {line}" + (f" (item {number})" if line < number else "")
        try:
            yield from self.images(kept(self.buffer.load(start, end), "an item", dict), location, notes)
        except BadItem as error:
            raise BadItem(str(error), error.location or location) from error

    @abstractmethod
    def images(self, item: Mapping[str, Any], location: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """The images of an item.

        Args:
            item: a JSON object of the source.
            location: file and line, for notes.
            notes: takes everything that is left out.

        Raises:
            BadItem: for an item that breaks the format's rules; its ``location`` is added.
        """
