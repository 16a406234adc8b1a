"""LLaVA-NeXT and LLaVA-OneVision: a squeezed base view of each image, and tiles of it at full resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pvit_ext.hosts.base import HiddenStates, ImageViews
from pvit_ext.hosts.transformers.families.base import Family, any_layer
from pvit_ext.regions.region import RegionError, Size
from pvit_ext.regions.view import View


class LlavaNext(Family):
    """The base view first, then the tiles of the image fitted into the best resolution, row by row."""

    def views(
        self, processor: Any, out: Mapping[str, Any], sizes: Sequence[Size], per_text: Sequence[int]
    ) -> list[ImageViews]:
        """Base view, and all tiles as one view."""
        return [self.tiled_views(processor, size) for size in sizes]

    def tiled_views(self, processor: Any, size: Size) -> ImageViews:
        """Base view and tiles of one image.

        Args:
            processor: of the model.
            size: (width, height) of the original.
        """
        from transformers.image_processing_utils import select_best_resolution

        side, patch = tile_side(processor.image_processor), self.patch_size(processor)
        height, width = select_best_resolution(size[::-1], processor.image_processor.image_grid_pinpoints)
        tiles = cells_in_a_row(View.fit(size, (width, height)), side, side // patch * patch)
        return ImageViews(View.resize(size, (side, side)), tiles)

    def rows_behind(self, processor: Any, before: str) -> int:
        """Those of the base view, as the processor counts them."""
        cells = (tile_side(processor.image_processor) // self.patch_size(processor)) ** 2
        more = processor.num_additional_image_tokens - (processor.vision_feature_select_strategy == "default")
        return int(cells + more)

    def base_views(self, inner: nn.Module, inputs: Mapping[str, Any], ends: Tensor, per_crop: int) -> Tensor:
        """The first of each image."""
        counts = torch.tensor([self.crops(inner.config, size) for size in inputs["image_sizes"].tolist()])
        return counts.cumsum(0) - counts

    def crops(self, config: Any, size: Sequence[int]) -> int:
        """How many the model takes of an image, base view and tiles.

        Args:
            config: of the model.
            size: (height, width) of the image.
        """
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        points, side = config.image_grid_pinpoints, config.vision_config.image_size
        return int(image_size_to_num_patches(list(size), points, side))

    def patch_size(self, processor: Any) -> int:
        """Pixels per side of a cell, by what the processor knows of the tower."""
        return int(processor.patch_size)

    def cells(
        self,
        inner: nn.Module,
        inputs: Mapping[str, Any],
        hidden: HiddenStates,
        views: Sequence[ImageViews],
        tiled: bool,
    ) -> list[Tensor]:
        """Row by row of the base view, or of all tiles as one view; crops have a class token first, or none."""
        shape, patch, first, found = any_layer(hidden).shape, self.tower_config(inner.config).patch_size, 0, []
        for base, tiles in views:
            cells = base.size[0] // patch, base.size[1] // patch
            grid = (tiles.size[0] // patch // cells[0], tiles.size[1] // patch // cells[1]) if tiles else None
            shown = grid if tiled else None
            found.append(tile_cells(first + (shown is not None), shape[1], cells, shown))
            first += 1 + (grid[0] * grid[1] if grid else 0)
        check_crops(shape[0], first)
        return found


class LlavaOnevision(LlavaNext):
    """Images of a prompt with several are padded to squares, and have no tiles."""

    prepares_several_differently: ClassVar[bool] = True

    def views(
        self, processor: Any, out: Mapping[str, Any], sizes: Sequence[Size], per_text: Sequence[int]
    ) -> list[ImageViews]:
        """Base view and tiles of an image that is alone in its prompt, else a padded square."""
        side, alone = tile_side(processor.image_processor), [count == 1 for count in per_text for _ in range(count)]
        found = []
        for size, single in zip(sizes, alone, strict=True):
            if single:
                found.append(self.tiled_views(processor, size))
            else:
                square = View.pad_to_square(size)
                found.append(ImageViews(square.then(View.resize(square.size, (side, side)))))
        return found

    def rows_behind(self, processor: Any, before: str) -> int:
        """Those of a crop, which its processor knows."""
        return int(processor.num_image_tokens)

    def base_views(self, inner: nn.Module, inputs: Mapping[str, Any], ends: Tensor, per_crop: int) -> Tensor:
        """The first of each image; one of several in a prompt has no other."""
        several = inputs.get("batch_num_images")
        sizes = inputs["image_sizes"].tolist()
        tiled = [True] * len(sizes) if several is None else [n == 1 for n in several for _ in range(n)]
        pairs = zip(sizes, tiled, strict=True)
        counts = torch.tensor([self.crops(inner.config, size) if has_tiles else 1 for size, has_tiles in pairs])
        return counts.cumsum(0) - counts

    def patch_size(self, processor: Any) -> int:
        """Its processor knows how many cells a crop has."""
        return tile_side(processor.image_processor) // isqrt(processor.num_image_tokens)


def tile_side(images: Any) -> int:
    """Pixels per side of a crop, by an image processor."""
    size = getattr(images, "crop_size", None) or images.size
    return int(size["height"] if size.get("height") else size["shortest_edge"])


def cells_in_a_row(tiles: View, side: int, seen: int) -> View:
    """The view of all tiles in the pixels that have a cell; the same where all have one.

    Where the tower sees ``seen`` of a tile's ``side`` pixels, there is a gap between tiles that no affine follows: this
    one is exact in the middle of each tile, and a fifth of a cell off at its edges (384 pixels, 27 cells of 14).

    Args:
        tiles: all tiles as one view.
        side: pixels per side of a tile.
        seen: pixels per side that have a cell.
    """
    size = (tiles.size[0] // side * seen, tiles.size[1] // side * seen)
    fraction, half = seen / side, (side - seen) / 2
    return tiles.then(View(size, (fraction, fraction), (half, half)))


def tile_cells(first: int, per_crop: int, cells: Size, grid: Size | None) -> Tensor:
    """Positions of an image's cells, (rows, columns) int64, in the flattened output of a tower that runs on crops.

    Args:
        first: its first crop.
        per_crop: positions of a crop, of which a class token may be the first.
        cells: columns and rows of a crop.
        grid: columns and rows of crops; None for one.
    """
    (width, height), (across, down) = cells, grid or (1, 1)
    row, column = torch.arange(down * height)[:, None], torch.arange(across * width)
    crop = first + row // height * across + column // width  # (rows, columns)
    return crop * per_crop + per_crop - width * height + row % height * width + column % width


def check_crops(found: int, expected: int) -> None:
    """Refuse crops that are not those of the views.

    Raises:
        RegionError: with both numbers.
    """
    if found != expected:
        raise RegionError(
            f"the vision tower ran on {found} crops, but the images have {expected}: leave what tiles them (size, "
            "image_grid_pinpoints, max_patches, crop_to_patches, do_pan_and_scan) out of the call; sizes, pinpoints "
            "and numbers are set in processor.image_processor"
        )
