"""Qwen's towers and GLM-4V's: a plain resize to cells that the language model gets merged two by two."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pvit_ext.hosts.base import HiddenStates, ImageViews
from pvit_ext.hosts.transformers.families.base import Family
from pvit_ext.hosts.transformers.families.cell_groups import CellGroups
from pvit_ext.regions.region import Size
from pvit_ext.regions.view import View


class Merged(Family):
    """All images are one sequence, in which the cells that are merged stand together (Qwen3-VL, GLM-4V)."""

    tower_name: ClassVar[str] = "visual"
    image_end: ClassVar[str] = "<|vision_end|>"
    fixed_size: ClassVar[bool] = False
    reports_sizes: ClassVar[bool] = True

    def views(
        self, processor: Any, out: Mapping[str, Any], sizes: Sequence[Size], per_text: Sequence[int]
    ) -> list[ImageViews]:
        """How ``smart_resize`` rounded is read off the grid of cells."""
        patch, grids = processor.image_processor.patch_size, out["image_grid_thw"]
        found = zip(sizes, grids, strict=True)
        return [ImageViews(View.resize(size, (int(w) * patch, int(h) * patch))) for size, (_, h, w) in found]

    def cells(
        self,
        inner: nn.Module,
        inputs: Mapping[str, Any],
        hidden: HiddenStates,
        views: Sequence[ImageViews],
        tiled: bool,
    ) -> list[Tensor]:
        """Square by square, and in each row by row."""
        tower: Any = self.tower(inner)
        side, first, found = tower.spatial_merge_size, 0, []
        order = self.square_order(inner, inputs["image_grid_thw"])
        for _, height, width in inputs["image_grid_thw"].tolist():
            row, column = torch.arange(height)[:, None], torch.arange(width)
            square = first // side**2 + row // side * (width // side) + column // side  # (height, width)
            if order is not None:
                square = order[square]
            found.append(square * side**2 + row % side * side + column % side)
            first += height * width
        return found

    def groups(self, inner: nn.Module, inputs: Mapping[str, Any], hidden: HiddenStates, rows: int) -> CellGroups:
        """Cells that are merged stand together; the squares may stand in another order than the rows."""
        grids = inputs["image_grid_thw"]
        lengths = grids.prod(-1).tolist()
        squares = torch.arange(sum(lengths)).view(rows, -1)
        order = self.square_order(inner, grids)
        return CellGroups(lengths, squares if order is None else squares[order])

    def rows_behind(self, processor: Any, before: str) -> int:
        """All of its squares; GLM-4V writes frames of a video before it by the same token."""
        token = re.escape(processor.image_token)
        found = re.search(rf"((?:{token})+)(?:{re.escape(self.image_end)})?$", before)
        return 0 if found is None else found[1].count(processor.image_token)

    def square_order(self, inner: nn.Module, grids: Tensor) -> Tensor | None:
        """Position of each square in the tower's sequence, (squares,) int64 on the CPU; None where they are in order.

        Args:
            inner: the inner model.
            grids: (B, 3) int64: frames, rows and columns of each image.
        """
        return None


class Qwen2(Merged):
    """Its config calls the tower's width ``embed_dim``; ``hidden_size`` is the language model's."""

    def width(self, vision: Any) -> int:
        """C of the tower's hidden states, by its config."""
        return int(vision.embed_dim)


class Qwen25(Merged):
    """Its squares stand in the order of the windows in which they attend to each other."""

    def square_order(self, inner: nn.Module, grids: Tensor) -> Tensor:
        """The inverse of the order in which the tower takes them."""
        from transformers.vision_utils import get_vision_window_index

        tower: Any = self.tower(inner)
        taken, _ = get_vision_window_index(grids, tower.spatial_merge_size, tower.window_size, tower.patch_size)
        return torch.as_tensor(taken).cpu().argsort()


class Glm4v(Merged):
    """The output of its last layer is merged already: regions read earlier ones."""

    merges_last: ClassVar[bool] = True
    image_end: ClassVar[str] = "<|end_of_image|>"

    def select_layer(self, config: Any) -> int:
        """The last layer that has every cell."""
        return -2
