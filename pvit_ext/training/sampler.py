"""The order of samples as a function of seed and epoch alone, so that a resumed run repeats it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler


class EpochSampler(Sampler[tuple[int, int]]):
    """A sampler's order, each index with its epoch: ``(epoch, index)``.

    LLaVA's sampler draws from torch's global generator, and so does transformers' on older versions: a resumed run,
    whose generator has another past, would order the rest of its epoch differently. The epoch travels with the index
    because data workers may outlive an epoch.

    Args:
        order: the sampler that draws from the global generator.
        seed: of the run.
        epoch: the epoch that begins when iteration does.
        limit: take so many samples of the order; each epoch leaves out others.
    """

    def __init__(self, order: Any, seed: int, epoch: Callable[[], int], limit: int | None = None) -> None:
        self.order, self.seed, self.epoch, self.limit = order, seed, epoch, limit

    def __len__(self) -> int:
        return len(self.order) if self.limit is None else min(self.limit, len(self.order))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0]))
            indices = [int(index) for index in self.order][: self.limit]
        return iter([(epoch, index) for index in indices])


class ModalityGroupedSampler(Sampler[int]):
    """Groups samples of like length, all with images or all without in a batch; like LLaVA's, for any host.

    Args:
        batch: samples of an optimizer step, all processes together.
        lengths: of all samples, negative without an image, never 0.
    """

    def __init__(self, batch: int, lengths: Sequence[int]) -> None:
        self.batch, self.lengths = batch, lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        groups = [
            [index for index, length in enumerate(self.lengths) if (length > 0) == sign] for sign in (True, False)
        ]
        batches, rest = [], []
        for group in filter(None, groups):
            grouped = LengthGroupedSampler(self.batch, lengths=[abs(self.lengths[index]) for index in group])
            order = [group[number] for number in grouped]
            filled = len(order) - len(order) % self.batch
            batches += [order[start : start + self.batch] for start in range(0, filled, self.batch)]
            rest += order[filled:]
        for number in torch.randperm(len(batches)).tolist():
            yield from batches[number]
        yield from rest


def check_sampling(arguments: Any) -> None:
    """Raise ValueError for a strategy of transformers' whose order reads every image first and differs by rank."""
    if getattr(arguments, "train_sampling_strategy", None) == "batch_rebalance":
        known = "random, sequential, group_by_length (or --group_by_modality_length True)"
        raise ValueError(f"--train_sampling_strategy batch_rebalance is not resumed exactly; known here: {known}")


def groups_by_length(arguments: Any) -> bool:
    """Whether transformers' own flag, whose name differs by version, asks for batches of like length."""
    strategy = getattr(arguments, "train_sampling_strategy", None)
    return strategy == "group_by_length" or bool(getattr(arguments, "group_by_length", False))


def samples_in_full_steps(samples: int, batch: int, accumulation: int, drop_last: bool = False) -> int | None:
    """How many samples of an epoch fill whole optimizer steps; None where an epoch does not fill a single one.

    Args:
        samples: in an epoch.
        batch: of one micro-batch, all processes together.
        accumulation: micro-batches in a step.
        drop_last: an incomplete micro-batch is not run.
    """
    micro_batches = samples // batch if drop_last else -(-samples // batch)
    if micro_batches < accumulation:
        return None
    return min(samples, micro_batches // accumulation * accumulation * batch)
