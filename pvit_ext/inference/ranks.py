"""Several processes on one set of questions, as a launcher starts them; they share nothing but files."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
_PATIENCE = timedelta(days=7)
"""The first rank that is done waits for the last one."""


class Ranks(NamedTuple):
    """This process among all.

    Args:
        rank: 0 up to ``world``.
        world: how many there are.
        local: of the processes of this machine, which one this is.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    def wait(self) -> None:
        """Until all are here."""
        if self.world > 1:
            dist.barrier()

    def batches(self, items: Sequence[T], size: int, about: Callable[[T], Hashable] | None = None) -> list[Sequence[T]]:
        """This process's share of what all have, in batches.

        Args:
            items: the same on all processes.
            size: of a batch, at most.
            about: items of which it is the same share work; a batch that they fill by half ends where it changes.
        """

        def alike(one: T, other: T) -> bool:
            return about is None or about(one) == about(other)

        ends = [0]
        for place in range(1, len(items) + 1):
            start, last = ends[-1], items[place - 1]
            full = place == len(items) or place - start == size
            half = 2 * (place - start) >= size and alike(items[start], last)
            if full or (half and not alike(items[place], last)):
                ends.append(place)
        parts = [items[start:end] for start, end in pairwise(ends)]
        return parts[self.rank :: self.world]

    def named(self, work: str) -> str:
        """The name of the work beside its progress bar, which the first process shows of its own share."""
        return work if self.world == 1 else f"{work} (rank 0 of {self.world})"

    def device(self, asked: str | None) -> str | None:
        """The device of this process: what was asked for, else a CUDA device of its own where there are any."""
        if asked is None and self.world > 1 and torch.cuda.is_available():
            return f"cuda:{self.local % torch.cuda.device_count()}"
        return asked


@contextmanager
def ranks() -> Iterator[Ranks]:
    """The processes that torchrun or deepspeed has started, which talk by gloo while the block runs; else one."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        yield Ranks()
        return
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", 0)))
    finally:
        if ours:
            dist.destroy_process_group()
