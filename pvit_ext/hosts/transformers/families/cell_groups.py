"""Which of the vision tower's cells stand behind each image row of the language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import isqrt

import torch
from torch import Tensor

from pvit_ext.regions.region import RegionError, Size


@dataclass(frozen=True)
class CellGroups:
    """Cells of a batch, image by image, and how a model merges them.

    Args:
        lengths: cells of each image, or of each crop.
        groups: (R, k) int64: numbers of the cells that are merged into row r; None: row r is cell r.
    """

    lengths: Sequence[int]
    groups: Tensor | None

    @staticmethod
    def of_crops(crops: int, positions: int, rows: int) -> CellGroups:
        """Of crops with one number of cells each, merged in squares to ``rows``.

        Args:
            crops: number of them.
            positions: of the tower's output for a crop; a class token may be the first.
            rows: of the language model for a crop.
        """
        side = isqrt(positions // rows)
        if side == 1:  # crops need not be square then
            return CellGroups([rows] * crops, None)
        cells = isqrt(rows) * side
        return CellGroups.of_sizes([(cells, cells)] * crops, side)

    @staticmethod
    def of_sizes(sizes: Sequence[Size], side: int) -> CellGroups:
        """Of images with their own numbers of cells, row by row, one behind the other.

        Args:
            sizes: columns and rows of each.
            side: cells that are merged in each direction; what does not fill a square at the edge is in none.
        """
        lengths = [columns * rows for columns, rows in sizes]
        if side == 1:
            return CellGroups(lengths, None)
        starts = [0, *accumulate(lengths)][:-1]
        squares = [_squares(start, size, side) for start, size in zip(starts, sizes, strict=True)]
        return CellGroups(lengths, torch.cat(squares))

    @property
    def cu_seqlens(self) -> Tensor:
        """(images + 1,) int64: where each begins, and the end."""
        return torch.tensor([0, *accumulate(self.lengths)])

    def cells(self, layer: Tensor) -> Tensor:
        """The cells (N, C) of a hidden layer (crops, P, C), (1, N, C) or (N, C), without class tokens.

        Raises:
            RegionError: for a layer that has fewer, since the tower has merged them already.
        """
        rows, channels = layer.shape[0] if layer.dim() == 3 else 1, layer.shape[-1]
        cells = layer.reshape(rows, -1, channels)[:, -(sum(self.lengths) // rows) :].flatten(0, 1)  # (N, C)
        if len(cells) != sum(self.lengths):
            raise RegionError(
                f"a hidden layer of the vision tower has {len(cells)} positions, the images have {sum(self.lengths)} "
                "cells: give lion_aggregator_depths of layers that are not merged"
            )
        return cells


def _squares(first: int, size: Size, side: int) -> Tensor:
    """(squares, side * side) int64, square by square, row by row.

    Args:
        first: number of the image's first cell.
        size: columns and rows of cells.
        side: of a square.
    """
    columns, rows = size
    table = first + torch.arange(rows * columns).view(rows, columns)
    table = table[: rows // side * side, : columns // side * side]
    squares = table.unfold(0, side, side).unfold(1, side, side)  # (rows / side, columns / side, side, side)
    return squares.reshape(-1, side**2)
