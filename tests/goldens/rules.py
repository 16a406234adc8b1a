"""Inputs and weights of the goldens from a key and a seed, through numpy's frozen legacy random streams."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def stream(key: str, seed: int) -> np.random.RandomState:
    return np.random.RandomState((seed * 1000003 + zlib.crc32(key.encode())) % 2**32)


def normal(key: str, shape: Sequence[int], seed: int) -> Tensor:
    return torch.from_numpy(stream(key, seed).standard_normal(tuple(shape)).astype(np.float32))


def image(key: str, height: int, width: int, seed: int, cell: int = 16) -> NDArray[np.uint8]:
    """RGB (height, width, 3): coarse random blocks under fine noise."""
    random = stream(key, seed)
    coarse = random.randint(0, 256, (-(-height // cell), -(-width // cell), 3))
    fine = random.randint(-20, 21, (height, width, 3))
    blocks = coarse.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width]
    return (blocks + fine).clip(0, 255).astype(np.uint8)


def weight(key: str, shape: Sequence[int], seed: int) -> Tensor:
    """A weight by its key in the original state dict; the first rule that matches holds."""
    shape, leaf, noise = tuple(shape), key.rpartition(".")[2], normal(key, shape, seed)
    if leaf == "running_var":
        return torch.exp(0.2 * noise)
    if leaf == "running_mean":
        return 0.1 * noise
    if leaf == "num_batches_tracked":
        return torch.zeros(shape)
    if leaf == "positional_embedding":
        return noise * shape[-1] ** -0.5
    if leaf in ("query_tokens", "position_embedding"):
        return 0.02 * noise
    if not shape:
        return torch.tensor(0.5) + 0.1 * noise
    if len(shape) == 1:
        return 0.1 * noise if leaf == "bias" else (0.3 if ".bn3." in key else 1.0) + 0.1 * noise
    if "embed_tokens" in key or leaf == "lm_head" or "embedding" in key:
        return 0.5 * noise
    fan_in = int(np.prod(shape[1:]))
    return noise * ((2.0 if len(shape) == 4 else 1.0) / fan_in) ** 0.5
