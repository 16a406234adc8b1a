"""A format that is a table: it reads a row at a time, and a bad row is named."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.convert.base import DataFormat
from pvit_ext.data.convert.notes import BadItem, Notes


class TableRows(DataFormat):
    """What Arrow and Parquet have in common; a format reads a row."""

    def read_rows(
        self, path: Path, rows: Iterable[Mapping[str, Any]], first: int, notes: Notes
    ) -> Iterator[tuple[int, AnnotatedImage]]:
        """The images of rows, each with its row's number; what breaks the format's rules is named with its row.

        Args:
            path: of the file.
            rows: values by column.
            first: number of the first row.
            notes: takes everything that is left out.
        """
        for number, row in enumerate(rows, first):
            location = f"{path.name} row {number}"
            try:
                for image in self.images(row, location, notes):
                    yield number, image
            except BadItem as error:
                notes.bad(error.location or location, str(error))

    @abstractmethod
    def images(self, row: Mapping[str, Any], location: str, notes: Notes) -> Iterator[AnnotatedImage]:
        """The images of a row.

        Args:
            row: values by column.
            location: file and row, for notes.
            notes: takes everything that is left out.

        Raises:
            BadItem: for a row that breaks the format's rules.
        """
