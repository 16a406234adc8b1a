"""One feature map per image, gathered from the vision tower's flattened output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def gather_maps(hidden: Tensor, cells: Sequence[Tensor]) -> Tensor:
    """Hidden states (..., C) of a batch -> (B, C, H, W).

    Smaller maps repeat their last cells up to the largest, so that reading between cells at an edge gives the same as
    for the image alone.

    Args:
        hidden: one layer.
        cells: B tables (rows, columns) int64 of positions in the flattened layer.
    """
    height, width = (max(table.shape[axis] for table in cells) for axis in (0, 1))
    index = torch.stack([_continued(table, height, width) for table in cells])  # (B, H, W)
    return hidden.flatten(0, -2)[index.to(hidden.device)].permute(0, 3, 1, 2)


def _continued(table: Tensor, height: int, width: int) -> Tensor:
    rows, columns = (
        torch.arange(size, device=table.device).clamp(max=count - 1)
        for size, count in zip((height, width), table.shape, strict=True)
    )
    return table[rows][:, columns]
