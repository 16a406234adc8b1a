"""Describe Anything's data: pickles, which run code when they are loaded. Refused, with what to do instead."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.convert.base import DataFormat, Evidence, ReadOptions, SourceError
from pvit_ext.data.convert.notes import Notes
from pvit_ext.data.convert.parquet_rows import columns_of
from pvit_ext.data.convert.peek import Peek

ADVICE = (
    "{source} holds pickles, as Describe Anything's data does; loading one runs whatever code is in it, so it is not "
    "read here. Take the same annotations from their sources, which are read: coco (COCOStuff, SAM as COCO), lvis, "
    "paco. Or, in a container without network that you trust with it, write the masks as COCO's run lengths into JSON "
    "Lines of image, caption, mask and boxes, and convert those as pixelrefer"
)
_MEMBERS = 20


class DescribeAnything(DataFormat):
    """See the module."""

    name = "describe_anything"
    about = "Describe Anything's pickles: refused, with advice"

    def __init__(self, source: Path, options: ReadOptions) -> None:
        super().__init__(source, options)
        raise SourceError(ADVICE.format(source=source))

    @classmethod
    def detect(cls, peek: Peek) -> Evidence | None:
        """Parquet with jpg and pickle, tar files with pickles, or pickles."""
        if {"jpg", "pickle"} <= columns_of(peek):
            return Evidence(0.97, "the columns jpg and pickle")
        names = peek.files if peek.is_folder else [peek.path.name]
        if any(name.endswith((".pickle", ".pkl")) for name in names):
            return Evidence(0.7, "pickles")
        tar = next((name for name in names if name.endswith(".tar")), None)
        path = peek.path / tar if tar and peek.is_folder else peek.path
        return Evidence(0.9, f"pickles in {path.name}") if tar and _holds_pickles(path) else None

    def units(self) -> Iterator[Any]:
        """Nothing."""
        yield from ()

    def read(self, unit: Any, notes: Notes) -> Iterator[AnnotatedImage]:
        """Nothing."""
        yield from ()


def _holds_pickles(path: Path) -> bool:
    """Whether some of a tar file's first members are pickles; none is opened."""
    try:
        with tarfile.open(path) as tar:
            members = (tar.next() for _ in range(_MEMBERS))
            return any(one is not None and one.name.endswith((".pickle", ".pkl")) for one in members)
    except (OSError, tarfile.TarError):
        return False
