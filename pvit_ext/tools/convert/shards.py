"""Writing a checkpoint's tensors under other names, shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pvit_ext.tools.shards import Checkpoint, Shard, save_tensors, write_index, write_safetensors

LAYOUT = ("model", ".safetensors")


@dataclass(frozen=True)
class Change:
    """How tensors change on the way.

    Args:
        rename: new name of a tensor; None to leave it out.
        rows: of the tensors in ``resized``.
        resized: new names. Missing rows become the mean of the others, around which transformers' converter draws them;
            surplus rows are cut off.
    """

    rename: Callable[[str], str | None]
    rows: int
    resized: frozenset[str]

    def apply(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor as it is written; the tensor may be on the meta device.

        Args:
            name: its new one.
            tensor: as it was read.
        """
        if name not in self.resized or len(tensor) == self.rows:
            return tensor
        if len(tensor) > self.rows:
            return tensor[: self.rows]
        mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
        return torch.cat([tensor, mean.expand(self.rows - len(tensor), -1)])


def write_all(
    source: Checkpoint, folder: Path, change: Change, others: dict[str, Tensor], advance: Callable[[int], Any]
) -> None:
    """Write every shard, one tensor in memory at a time, compare what is there, and write the index.

    Args:
        source: what to read.
        folder: a new one.
        change: of names and rows.
        others: tensors that the source does not have.
        advance: called with the bytes of each shard.

    Raises:
        OSError: when a written tensor is not what was read.
    """
    files, count = {}, len(source.shards) + bool(others)
    for number, shard in enumerate(source.shards, start=1):
        path = folder / f"model-{number:05}-of-{count:05}.safetensors"
        if written := _write_shard(shard, path, change):
            files[path.name] = written
        advance(shard.path.stat().st_size)
    if others:
        path = folder / f"model-{count:05}-of-{count:05}.safetensors"
        save_tensors(path, others)
        files[path.name] = others
    write_index(folder, LAYOUT, files, {})


def _write_shard(shard: Shard, path: Path, change: Change) -> dict[str, Tensor]:
    before = {new: name for name in shard.entries if (new := change.rename(name)) is not None}
    entries = {new: change.apply(new, shard.entries[name]) for new, name in before.items()}
    if not entries:
        return {}

    def read(names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        names = list(names)
        for new, (_, tensor) in zip(names, shard.read([before[new] for new in names]), strict=True):
            yield new, change.apply(new, tensor)

    write_safetensors(path, entries, read)
    same = {new: name for new, name in before.items() if entries[new].shape == shard.entries[name].shape}
    found, wanted = Shard(path).digests(same), shard.digests(same.values())
    if wrong := [new for new, name in same.items() if found[new] != wanted[name]]:
        raise OSError(f"{path} does not hold what was read from {shard.path} ({wrong[0]}): check the disk, try again")
    return entries
