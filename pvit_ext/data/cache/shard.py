"""One file of maps: made by a worker, with a list of what is in it, which is written last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from pvit_ext.data.cache.images import FileState, is_unchanged, read_file
from pvit_ext.data.cache.key import name_of
from pvit_ext.data.cache.plan import aligned
from pvit_ext.data.cache.source import BLANK, StoredTower, TowerSource
from pvit_ext.files import atomic_write
from pvit_ext.regions.image import ImageError, load_image


class Shard(NamedTuple):
    """Images whose maps go into one file.

    Args:
        number: of the file.
        images: (name, path) of each.
    """

    number: int
    images: list[tuple[str, str]]


@dataclass(frozen=True)
class ShardWork:
    """Makes shards; sent to the workers once.

    Args:
        source: of the tower.
        device: that the tower runs on.
        threads: that torch uses; its sums depend on their number, in float32 on the CPU.
        folder: to write to.
    """

    source: TowerSource
    device: str
    threads: int
    folder: Path

    @cached_property
    def tower(self) -> StoredTower:
        """With its weights, loaded once in a process."""
        return self.source.open(self.device)

    def __getstate__(self) -> dict[str, Any]:
        """Without the tower, which each worker loads."""
        return {key: value for key, value in vars(self).items() if key != "tower"}

    def __call__(self, batch: Sequence[Shard]) -> dict[str, str]:
        """Write some shards; the problems of images that cannot be read, by name."""
        torch.set_num_threads(self.threads)
        problems: dict[str, str] = {}
        for shard in batch:
            with atomic_write(maps_file(self.folder, shard.number)) as temporary, temporary.open("wb") as stream:
                entries = [self._entry(stream, name, path) for name, path in shard.images]
            with atomic_write(list_file(self.folder, shard.number)) as temporary:
                lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries]
                temporary.write_text("".join(lines), encoding="utf-8")
            problems |= {entry["name"]: entry["problem"] for entry in entries if "problem" in entry}
        return problems

    def _entry(self, stream: BinaryIO, name: str, path: str) -> dict[str, Any]:
        """Append what the tower makes of an image, and say what it is."""
        image, state = None, FileState("", 0, 0)
        try:
            if path != BLANK:
                content, state = read_file(path)
                image = load_image(content)
        except (ImageError, OSError) as error:
            return {"name": name, "problem": getattr(error, "reason", "") or str(error)}
        made = self.tower.make(image)
        tensors = [_append(stream, tensor) for tensor in made.tensors]
        return {"name": name, **state._asdict(), "tensors": tensors, **({"about": made.about} if made.about else {})}


def maps_file(folder: Path, number: int) -> Path:
    """The maps of a shard."""
    return folder / f"maps-{number:05}.bin"


def list_file(folder: Path, number: int) -> Path:
    """What is in a shard."""
    return folder / f"maps-{number:05}.jsonl"


def read_list(path: Path) -> list[dict[str, Any]]:
    """The entries of a list of images.

    Raises:
        ValueError: for a damaged one.
    """
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def is_done(folder: Path, shard: Shard) -> bool:
    """Whether a shard has been written, of the images as they are."""
    try:
        entries = read_list(list_file(folder, shard.number))
        if [entry["name"] for entry in entries] != [name for name, _ in shard.images]:
            return False
        return all(
            "problem" in entry or is_unchanged(path, state_of(entry))
            for entry, (_, path) in zip(entries, shard.images, strict=True)
        )
    except (OSError, ValueError, KeyError):
        return False


def state_of(entry: dict[str, Any]) -> FileState:
    """Of the image file that an entry was made of."""
    return FileState(entry["sha256"], entry["size"], entry["modified"])


def _append(stream: BinaryIO, tensor: Tensor) -> dict[str, Any]:
    """Write a tensor at the end of a file; its shape, dtype and place."""
    offset = stream.tell()
    stream.write(tensor.contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
    stream.write(b"\0" * (aligned(stream.tell()) - stream.tell()))
    return {"shape": list(tensor.shape), "dtype": name_of(tensor.dtype), "offset": offset}
