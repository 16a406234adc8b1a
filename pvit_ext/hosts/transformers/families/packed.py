"""Pixtral's tower, in LLaVA and in Mistral 3: images of any size, resized to their own number of cells and packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pvit_ext.hosts.base import HiddenStates, ImageViews
from pvit_ext.hosts.transformers.families.base import Family, any_layer
from pvit_ext.hosts.transformers.families.cell_groups import CellGroups
from pvit_ext.regions.region import RegionError, Size
from pvit_ext.regions.view import View


class Packed(Family):
    """A plain resize; all images of a batch are one sequence."""

    fixed_size: ClassVar[bool] = False
    reports_sizes: ClassVar[bool] = True
    images_along: ClassVar[int] = 1

    def views(
        self, processor: Any, out: Mapping[str, Any], sizes: Sequence[Size], per_text: Sequence[int]
    ) -> list[ImageViews]:
        """The processor reports what it resized each image to, before it padded them to a batch."""
        found = zip(sizes, out["image_sizes"], strict=True)
        return [ImageViews(View.resize(size, (int(width), int(height)))) for size, (height, width) in found]

    def cells(
        self,
        inner: nn.Module,
        inputs: Mapping[str, Any],
        hidden: HiddenStates,
        views: Sequence[ImageViews],
        tiled: bool,
    ) -> list[Tensor]:
        """Row by row, one image behind the other."""
        patch, first, found = self.tower_config(inner.config).patch_size, 0, []
        for base, _ in views:
            columns, rows = (side // patch for side in base.size)
            found.append(first + torch.arange(rows * columns).view(rows, columns))
            first += rows * columns
        check_cells(any_layer(hidden), first)
        return found

    def groups(self, inner: nn.Module, inputs: Mapping[str, Any], hidden: HiddenStates, rows: int) -> CellGroups:
        """Mistral 3 merges squares of cells, LLaVA none."""
        config: Any = inner.config
        patch = self.tower_config(config).patch_size
        sizes = [(int(width) // patch, int(height) // patch) for height, width in inputs["image_sizes"]]
        return CellGroups.of_sizes(sizes, getattr(config, "spatial_merge_size", 1))


def check_cells(hidden: Tensor, expected: int) -> None:
    """Refuse images that are not those of the views.

    Args:
        hidden: (1, positions, C), one layer.
        expected: cells of the views.

    Raises:
        RegionError: with both numbers.
    """
    if (found := hidden.shape[:-1].numel()) != expected:
        raise RegionError(
            f"the vision tower ran on {found} cells, but the images of region_views have {expected}: pass all that one "
            "call of the processor returns, batched together"
        )
