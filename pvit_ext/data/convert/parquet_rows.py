"""A format that is a Parquet file, or a folder of them: some rows a unit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.file_items import files_in
from pvit_ext.data.convert.notes import Notes
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.table_rows import TableRows

_ROWS = 64
Unit = tuple[Path, int, int, int]
"""File, row group, first row in it, and the number of that row in the file."""


def columns_of(peek: Peek) -> set[str]:
    """The columns of a Parquet file, or of the first one of a folder; empty for anything else, or without pyarrow."""
    name = next((name for name in peek.files if name.endswith(".parquet")), None) if peek.is_folder else ""
    if name is None or (not peek.is_folder and not peek.head.startswith("PAR1")):
        return set()
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        return set()
    try:
        return set(parquet.read_schema(peek.path / name).names)
    except (ArrowException, OSError):
        return set()


class ParquetRows(TableRows):
    """Lists the rows; a format reads one."""

    columns: ClassVar[tuple[str, ...]]
    """What is read, of what a file has."""

    @cached_property
    def _parquet_files(self) -> list[Path]:
        return files_in(self.source, ".parquet", "Parquet")

    def files(self) -> list[Path]:
        """All Parquet files."""
        return self._parquet_files

    def units(self) -> Iterator[Unit]:
        """Some rows each."""
        for path in self._parquet_files:
            opened, number = _open(path), 0
            for group in range(opened.num_row_groups):
                rows = opened.metadata.row_group(group).num_rows
                for start in range(0, rows, _ROWS):
                    yield path, group, start, number + start
                number += rows

    def read(self, unit: Unit, notes: Notes) -> Iterator[AnnotatedImage]:
        """The images of some rows; what breaks the format's rules is named with its row, counted from 0."""
        path, group, start, first = unit
        opened = _open(path)
        wanted = [name for name in self.columns if name in opened.schema_arrow.names]
        table = opened.read_row_group(group, columns=wanted).slice(start, _ROWS)
        for _, image in self.read_rows(path, table.to_pylist(), first, notes):
            yield image


def _open(path: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise SourceError(
            f"{path} is Parquet, and pyarrow is not installed: pip install 'pvit-ext[parquet]'"
        ) from error
    try:
        return parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise SourceError(f"{path} is no Parquet file, or damaged: {error}; fetch it again") from error
