"""What a cache will hold: its images, the size of each map, and how they are dealt out to shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from pvit_ext.data.cache.key import name_of
from pvit_ext.data.cache.source import BLANK, StoredTower
from pvit_ext.regions.image import ImageError, image_size

SHARD_BYTES = 256 << 20
"""About as much of maps is in a file; an interrupted process loses one file's work for each worker."""
ALIGNMENT = 64
_READERS = 4
_BLANK_SIZE = 28, 28


@dataclass(frozen=True)
class Plan:
    """The images of a cache and what they take.

    Args:
        sizes: bytes of what is stored of each image, by name, in order.
        paths: of each image.
        problems: by name, why an image cannot be read.
        dtype: of the tower.
        what: images these are, in words.
    """

    sizes: dict[str, int]
    paths: dict[str, str]
    problems: dict[str, str]
    dtype: torch.dtype
    what: str

    @property
    def total(self) -> int:
        """Bytes of them all."""
        return sum(self.sizes.values())

    def shards(self, most: int = SHARD_BYTES) -> list[list[str]]:
        """Names of the images of each shard, in order, whatever number of workers fills them."""
        return list(_dealt(self.sizes, most))

    def describe(self) -> str:
        """Bytes per image and in all, in words."""
        sizes = sorted(self.sizes.values())
        if not sizes:
            return f"none of the {self.what} can be read"
        mean, one = self.total / len(sizes), sizes[len(sizes) // 2]
        spread = f"median {_bytes(one)}, {_bytes(sizes[0])} to {_bytes(sizes[-1])}"
        return (
            f"{len(sizes)} {self.what}, {len(self.shards())} files of maps in {name_of(self.dtype)}: "
            f"{_bytes(mean)} per image ({spread}), {_bytes(self.total)} in all"
        )


def make_plan(tower: StoredTower, paths: Mapping[str, str], what: str) -> Plan:
    """Read the headers of all images.

    Args:
        tower: may be without weights.
        paths: of the images, by name.
        what: images these are, in words.
    """
    sizes: dict[str, int] = {}
    problems: dict[str, str] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        for name, found in zip(paths, pool.map(_size, paths.values()), strict=True):
            if isinstance(found, str):
                problems[name] = found
            else:
                sizes[name] = aligned(tower.bytes_of(found))
    return Plan(sizes, dict(paths), problems, tower.dtype, what)


def aligned(size: int) -> int:
    """The next multiple of :data:`ALIGNMENT` from a number of bytes on."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _size(path: str) -> tuple[int, int] | str:
    if path == BLANK:
        return _BLANK_SIZE
    try:
        return image_size(path)
    except (ImageError, OSError) as error:
        return str(error)


def _dealt(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    names: list[str] = []
    taken = 0
    for name, size in sizes.items():
        if names and taken + size > most:
            yield names
            names, taken = [], 0
        names.append(name)
        taken += size
    if names:
        yield names


def _bytes(count: float) -> str:
    units: Sequence[str] = ("B", "kB", "MB", "GB", "TB")
    power = 0
    while count >= 1000 and power < len(units) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.0f} {units[power]}" if power == 0 else f"{count:.2f} {units[power]}"
