"""InternVL: tiles of the image squeezed into a grid, then a thumbnail of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from pvit_ext.hosts.base import HiddenStates, ImageViews
from pvit_ext.hosts.transformers.families.base import Family, any_layer, image_option
from pvit_ext.hosts.transformers.families.tiles import check_crops, tile_cells
from pvit_ext.regions.region import Size
from pvit_ext.regions.view import View


class InternVL(Family):
    """The base view, a thumbnail, comes behind the tiles; an image of one tile has no other."""

    fixed_size: ClassVar[bool] = False

    def views(
        self, processor: Any, out: Mapping[str, Any], sizes: Sequence[Size], per_text: Sequence[int]
    ) -> list[ImageViews]:
        """Both are plain resizes; the processor's own function says how many tiles, since its output does not."""
        images, found = processor.image_processor, []
        tile = images.size["width"], images.size["height"]
        for size in sizes:
            base, columns, rows = View.resize(size, tile), 1, 1
            if image_option(processor, "crop_to_patches") and images.max_patches > 1:
                grid = sys.modules[type(images).__module__].get_optimal_tiled_canvas
                columns, rows = grid(size[::-1], tile[::-1], images.min_patches, images.max_patches)
            tiles = View.resize(size, (columns * tile[0], rows * tile[1])) if columns * rows > 1 else None
            found.append(ImageViews(base, tiles))
        return found

    def rows_behind(self, processor: Any, before: str) -> int:
        """Those of the base view."""
        return int(processor.image_seq_length)

    def base_views(self, inner: nn.Module, inputs: Mapping[str, Any], ends: Tensor, per_crop: int) -> Tensor:
        """The last of each image; frames of videos are crops too, of none."""
        return ends // per_crop - 1

    def cells(
        self,
        inner: nn.Module,
        inputs: Mapping[str, Any],
        hidden: HiddenStates,
        views: Sequence[ImageViews],
        tiled: bool,
    ) -> list[Tensor]:
        """Row by row, behind a class token in each crop."""
        shape, patch, first, found = any_layer(hidden).shape, self.tower_config(inner.config).patch_size, 0, []
        for base, tiles in views:
            columns, rows = (all_of // one for all_of, one in zip((tiles or base).size, base.size, strict=True))
            grid = (columns, rows) if tiled else None
            start = first if tiled or not tiles else first + columns * rows
            found.append(tile_cells(start, shape[1], (base.size[0] // patch, base.size[1] // patch), grid))
            first += columns * rows + (tiles is not None)
        check_crops(shape[0], first)
        return found
