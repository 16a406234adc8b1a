"""Contents of a bounded number of a run's image files, size and time of all, to notice one that changed by its name."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pvit_ext.data.image_files import path_of
from pvit_ext.data.records import Record, Records
from pvit_ext.data.schema import images_of
from pvit_ext.files import fingerprint
from pvit_ext.regions.mask import PendingMask

States = Mapping[str, Sequence[int]]
COMPARED = 1000
"""Number of files; reading them takes about a second from a local disk."""
_READERS, _AT_ONCE = 8, 256
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


def image_states(records: Records) -> dict[str, list[int]]:
    """Size and time of change (nanoseconds) of every image and mask file, by name; no file is opened.

    Args:
        records: of the run.
    """
    if (folder := records.image_folder) is None:
        return {}
    names = [*dict.fromkeys(name for value in records.raw() for name in _names_in(value))]
    with ThreadPoolExecutor(_READERS) as pool:
        found = pool.map(lambda name: _state(path_of(folder, name)), names, chunksize=_AT_ONCE)
        return dict(zip(names, found, strict=True))


def _names_in(value: Any) -> Iterator[str]:
    """Images and mask files of a record as its file has it."""
    yield from (name for name in images_of(value) if isinstance(name, str))
    for region in value.get("regions") or ():
        if isinstance(region, dict) and isinstance(region.get("mask"), str):
            yield region["mask"]


def _state(path: str) -> list[int]:
    try:
        found = os.stat(path)
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def changed_images(saved: dict[str, str], own: dict[str, str]) -> list[str]:
    """The warning about files that both runs compared and that have changed; an empty list if none has."""
    both = [name for name in own if name in saved]
    changed = [name for name in both if saved[name] != own[name]]
    said = "of {} image files that were compared hold something else by now"
    return _warning(changed, said.format(len(both)))


def changed_states(
    saved: Mapping[str, Sequence[int]], own: Mapping[str, Sequence[int]], read: Collection[str]
) -> list[str]:
    """Warnings about files that have another size, or another time where most have kept theirs.

    In a copied folder all times are others.

    Args:
        saved, own: of :func:`image_states`.
        read: names of the files whose contents are compared.
    """
    both = [name for name in own if name in saved and name not in read]
    resized = [name for name in both if [*saved[name][:1]] != [*own[name][:1]]]
    others = {*resized}
    newer = [name for name in both if name not in others and [*saved[name]] != [*own[name]]]
    newer = newer if 2 * len(newer) < len(both) else []
    return [
        *_warning(resized, f"of {len(both)} further image files have another size by now"),
        *_warning(newer, f"of {len(both)} further image files were written since"),
    ]


def _warning(names: Sequence[str], said: str) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{len(names)} {said}: {', '.join(names[:_SHOWN])}{more}"]
