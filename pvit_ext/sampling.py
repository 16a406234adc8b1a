"""The order of samples as a function of seed and epoch alone, so that a resumed run repeats it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers import TrainerCallback


class EpochSampler(Sampler[tuple[int, int]]):
    """A sampler's order, each index with its epoch: ``(epoch, index)``.

    LLaVA's sampler draws from torch's global generator, and so does transformers' on older versions: a resumed run,
    whose generator has another past, would order the rest of its epoch differently. The epoch travels with the index
    because data workers may outlive an epoch.

    Args:
        order: the sampler that draws from the global generator.
        seed: of the run.
        epoch: the epoch that begins when iteration does.
    """

    def __init__(self, order: Any, seed: int, epoch: Callable[[], int]) -> None:
        self.order, self.seed, self.epoch = order, seed, epoch

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(np.random.SeedSequence((self.seed, epoch)).generate_state(1)[0]))
            indices = [int(index) for index in self.order]
        return iter([(epoch, index) for index in indices])


class EpochsEnd(TrainerCallback):
    """Rounds the epoch up where one ends.

    transformers 4.36 and 4.37 take the micro-batches that fill no step into the next epoch, which then begins, by their
    count, before the last has ended, and would repeat its order.
    """

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Unless the run stops in the middle of it."""
        if not control.should_training_stop:
            state.epoch = float(math.ceil(state.epoch))
