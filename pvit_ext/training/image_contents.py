"""Fingerprints of a bounded number of a run's image files, to notice one that changed under its name."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from pvit_ext.data.image_files import path_of
from pvit_ext.data.records import Record, Records
from pvit_ext.data.schema import images_of
from pvit_ext.files import fingerprint
from pvit_ext.regions.mask import PendingMask

COMPARED = 1000
"""Number of files; reading them takes about a second from a local disk."""
_READERS = 8
_SHOWN = 5


def image_contents(records: Records, most: int = COMPARED) -> dict[str, str]:
    """Fingerprints of image and mask files, by name: of all files, or of records spread evenly over the data.

    They depend on contents only, because copying a folder changes the times of its files.

    Args:
        records: of the run.
        most: how many files to read.
    """
    numbers = np.linspace(0, len(records) - 1, min(len(records), most)).astype(int).tolist()
    paths = dict(islice((file for number in numbers for file in _files_of(records[number])), most))
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(paths, pool.map(_mark, paths.values()), strict=True))


def _files_of(record: Record) -> Iterator[tuple[str, str]]:
    """Name and path of each image and each mask file."""
    if record.image_folder is None:
        return
    masks = [spec.source for spec in record.specs if isinstance(spec, PendingMask)]
    for name in (*images_of(record.data), *(mask for mask in masks if isinstance(mask, str))):
        yield name, path_of(record.image_folder, name)


def _mark(path: str) -> str:
    try:
        return fingerprint(Path(path))
    except OSError:  # the run names the record when it reads it
        return "cannot be read"


def changed_images(saved: dict[str, str], own: dict[str, str]) -> list[str]:
    """The warning about files that both runs compared and that have changed; an empty list if none has."""
    both = [name for name in own if name in saved]
    changed = [name for name in both if saved[name] != own[name]]
    if not changed:
        return []
    more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    names = ", ".join(changed[:_SHOWN])
    return [f"{len(changed)} of {len(both)} image files that were compared hold something else by now: {names}{more}"]
