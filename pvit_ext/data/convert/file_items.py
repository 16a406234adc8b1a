"""A format that is a folder of files: all files of one ending, and one file a unit."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.convert.base import DataFormat, SourceError
from pvit_ext.data.convert.notes import BadItem, Notes
from pvit_ext.data.summary import counted

_SHOWN = 5


def files_in(source: Path, ending: str, kind: str) -> list[Path]:
    """The source itself, or all files of an ending below it, sorted.

    Args:
        source: file or folder.
        ending: with its dot.
        kind: what such a file is, for the error.

    Raises:
        SourceError: where there is none.
    """
    found = [source] if source.is_file() else sorted(source.rglob(f"*{ending}"))
    if not found:
        raise SourceError(f"{source} holds no {kind} file")
    return found


def not_there(format: str, names: Sequence[str], kind: str) -> list[str]:
    """A remark on the images of a split's list that have no file, or none.

    Args:
        format: its name.
        names: of the images.
        kind: what such a file is.
    """
    if not names:
        return []
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return [f"{format}: no {kind} for {counted(len(names), 'image')} of the split's list: {shown}"]


class FileItems(DataFormat):
    """Lists the files of a folder, one for each image; a format reads one."""

    @abstractmethod
    def list_files(self) -> list[Path]:
        """The files, in order.

        Raises:
            SourceError: where there is none.
        """

    @cached_property
    def listed(self) -> list[Path]:
        """See :meth:`list_files`."""
        return self.list_files()

    def read(self, unit: Path, notes: Notes) -> Iterator[AnnotatedImage]:
        """The images of a file; what breaks the format's rules is named with it."""
        try:
            yield from self.images(unit, notes)
        except BadItem as error:
            raise BadItem(str(error), error.location or unit.name) from error

    @abstractmethod
    def images(self, unit: Path, notes: Notes) -> Iterator[AnnotatedImage]:
        """The images of a file.

        Args:
            unit: the file.
            notes: takes everything that is left out.

        Raises:
            BadItem: for a file that breaks the format's rules; its name is added as ``location``.
        """

    def files(self) -> list[Path]:
        """All of them."""
        return self.listed

    def total(self) -> int:
        """The number of files."""
        return len(self.listed)

    def units(self) -> Iterator[Path]:
        """Each file."""
        yield from self.listed
