"""A format that is a folder of Arrow files, as ``datasets`` saves one: a batch of rows a unit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.file_items import files_in
from pvit_ext.data.convert.notes import Notes
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.table_rows import TableRows

Unit = tuple[Path, int, int]
"""File, batch, and the number of its first row in the source, from 1."""


def arrow_columns(peek: Peek) -> set[str]:
    """The columns of an Arrow file, or of the first one of a folder; empty for anything else, or without pyarrow."""
    name = next((name for name in peek.files if name.endswith(".arrow")), None) if peek.is_folder else ""
    if name is None or (not peek.is_folder and peek.path.suffix != ".arrow"):
        return set()
    try:
        with _stream(peek.path / name) as stream:
            return set(stream.schema.names)
    except SourceError:
        return set()


class ArrowRows(TableRows):
    """Lists the batches; a format reads a row."""

    @cached_property
    def _arrow_files(self) -> list[Path]:
        return files_in(self.source, ".arrow", "Arrow")

    def files(self) -> list[Path]:
        """All Arrow files."""
        return self._arrow_files

    def units(self) -> Iterator[Unit]:
        """Each batch of each file."""
        row = 1
        for path in self._arrow_files:
            with _stream(path) as stream:
                for number, batch in enumerate(stream):
                    yield path, number, row
                    row += batch.num_rows

    def read(self, unit: Unit, notes: Notes) -> Iterator[AnnotatedImage]:
        """The images of a batch; what breaks the format's rules is named with its row, counted from 1."""
        path, wanted, first = unit
        with _stream(path) as stream:
            batch = next(batch for number, batch in enumerate(stream) if number == wanted)
            rows = (batch.slice(number, 1).to_pylist()[0] for number in range(batch.num_rows))
            for number, image in self.read_rows(path, rows, first, notes):
                yield replace(image, item=str(number))


@contextmanager
def _stream(path: Path) -> Iterator[Any]:
    """An Arrow file, mapped, whose batches are iterated."""
    try:
        from pyarrow import ArrowException, ipc, memory_map
    except ImportError as error:
        raise SourceError(f"{path} is Arrow, and pyarrow is not installed: pip install 'pvit-ext[parquet]'") from error
    try:
        with memory_map(str(path)) as mapped, ipc.open_stream(mapped) as stream:
            yield stream
    except (ArrowException, OSError) as error:
        raise SourceError(f"{path} is no Arrow stream, or damaged: {error}; fetch it again") from error
