"""Where a run reads and writes: what cannot be written, or would overwrite another file of the run, is said at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def check_paths(read: Mapping[str, Path], written: Mapping[str, Path]) -> None:
    """Refuse paths before anything is read, written or paid.

    Args:
        read: files that the run reads, by what they are called in a message.
        written: files that it writes, likewise; their folders need not exist.

    Raises:
        ValueError: for one that is written and is another one too, and for a place where no file can be.
    """
    for number, (name, path) in enumerate(written.items()):
        if path.is_dir():
            raise ValueError(f"{name} {path} is a folder; name a file")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir():
            raise ValueError(f"{name} {path}: {folder} is no folder; name another place")
        if not os.access(folder, os.W_OK):
            raise ValueError(f"{name} {path}: {folder} cannot be written to; name another place")
        others = [*read, *list(written)[:number]]
        for other in others:
            if _same(path, read[other] if other in read else written[other]):
                raise ValueError(f"{name} {path} is {other}{'' if other in read else ' too'}; name another")


def _same(path: Path, other: Path) -> bool:
    """Whether two paths are one file, which need not exist."""
    if path.exists() and other.exists():
        return path.samefile(other)
    return path.resolve() == other.resolve()
