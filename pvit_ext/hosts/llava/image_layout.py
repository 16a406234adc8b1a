"""How LLaVA shows images to its tower, LLaVA-1.6's ``anyres`` included, and one feature map per image from it.

With ``anyres`` an image becomes several crops: the base view (all of it, squeezed to a square), then the tiles of the
image scaled into the best of the configured resolutions, centred, the rest black.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from pvit_ext.regions.region import RegionError, Size
from pvit_ext.regions.view import View, tower_view

ASPECTS = ("square", "pad", "anyres")
MERGES = ("flat", "spatial", "spatial_unpad")
"""What LLaVA tells apart, its repository and its package: it takes other words for one of them."""

_EXAMPLE = "a list of resolutions such as [[336, 672], [672, 336], [672, 672]]"
_TOLD: WeakSet[Any] = WeakSet()
"""Models whose config was checked for unknown words."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageLayout:
    """The crops of an image, by LLaVA's config and its vision tower.

    Args:
        processor: the tower's image processor.
        side: pixels per side of a crop.
        patches: cells per side of a crop.
        aspect: ``image_aspect_ratio``.
        pinpoints: ``image_grid_pinpoints``, a list of (width, height) or its text.
        merge: ``mm_patch_merge_type``.
        behind: positions behind each image, for rows that the vision aggregator appends.
    """

    processor: Any
    side: int
    patches: int
    aspect: str | None
    pinpoints: Any
    merge: str
    behind: int = 0

    @classmethod
    def of(cls, model: Any) -> ImageLayout:
        """The layout of a LLaVA model with a loaded vision tower; see :func:`tell_unknown_words`."""
        tower, config = model.get_vision_tower(), model.config
        if model not in _TOLD:  # a layout is made for each batch
            _TOLD.add(model)
            tell_unknown_words(config)
        aggregator = getattr(model.get_model(), "region_aggregator", None)
        return cls(
            tower.image_processor,
            tower.config.image_size,
            tower.num_patches_per_side,
            getattr(config, "image_aspect_ratio", None),
            getattr(config, "image_grid_pinpoints", None),
            getattr(config, "mm_patch_merge_type", "flat"),
            tower.num_patches if aggregator is not None and aggregator.appended else 0,
        )

    def tiles(self, size: Size) -> Size:
        """(columns, rows) of an image's tiles.

        Raises:
            ValueError: without pinpoints.
        """
        from llava.mm_utils import get_anyres_image_grid_shape

        if not self.pinpoints:
            raise ValueError(f"image_aspect_ratio anyres needs image_grid_pinpoints, {_EXAMPLE}")
        columns, rows = get_anyres_image_grid_shape(size, self.pinpoints, self.side)
        return int(columns), int(rows)

    def positions(self, size: Size) -> int:
        """Positions of the prompt that an image of a size takes, with those behind it."""
        return self._own_positions(size) + self.behind

    def _own_positions(self, size: Size) -> int:
        """Those that LLaVA gives it; its own function says what ``unpad`` keeps."""
        cells = self.patches**2
        if self.aspect != "anyres":
            return cells
        columns, rows = self.tiles(size)
        if "unpad" not in self.merge:
            return cells * (1 + columns * rows)
        from llava.model.llava_arch import unpad_image

        canvas = torch.empty(1, rows * self.patches, columns * self.patches, device="meta")
        _, height, width = unpad_image(canvas, size).shape
        return cells + height * (width + 1)  # one newline a row

    def view(self, size: Size, tiled: bool = False) -> View:
        """What the tower sees of an image: its only or base view, or all tiles as one."""
        if not tiled:
            return tower_view(self.processor, self.aspect, size)
        square = (self.side, self.side)
        if tower_view(self.processor, None, square) != View.resize(square, square):
            raise ValueError(f"anyres tiles have {self.side} pixels, but the image processor resizes or crops them")
        columns, rows = self.tiles(size)
        return View.fit(size, (columns * self.side, rows * self.side))

    def join(
        self, maps: Sequence[Tensor], crops: Sequence[int], sizes: Sequence[Size], tiled: bool = True
    ) -> tuple[list[Tensor], list[View]]:
        """One map and one view per image.

        An image that came as tiles gives the map of all its tiles, at full resolution; without ``tiled``, and for an
        image that came as one crop, that of the base view. Smaller maps repeat their last cells up to the largest, so
        that reading between cells at an edge gives the same as for the image alone.

        Args:
            maps: one (crops, C, H, W) map per layer.
            crops: number of crops of each of the B images.
            sizes: B (width, height) of the upright originals.

        Returns:
            (B, C, H', W') per layer, a copy only where there are tiles; B views.

        Raises:
            RegionError: when the crops are not those of these images.
        """
        if len(crops) != len(sizes):
            raise RegionError(f"the vision tower ran on {len(crops)} images, image_sizes has {len(sizes)}")
        grids = [self._grid(image, count, sizes[image]) for image, count in enumerate(crops)]
        grids = grids if tiled else [None] * len(grids)
        views = [self.view(size, grid is not None) for size, grid in zip(sizes, grids, strict=True)]
        first = torch.tensor(crops).cumsum(0) - torch.tensor(crops)
        if not any(grids):
            return [one if len(one) == len(sizes) else one[first.to(one.device)] for one in maps], views
        first += torch.tensor([grid is not None for grid in grids])  # the tiles come after the base view
        shape = torch.tensor([grid or (1, 1) for grid in grids])
        return [_stitch(one, *_cells(first, shape, one.shape[-2:])) for one in maps], views

    def _grid(self, image: int, crops: int, size: Size) -> Size | None:
        if crops == 1:
            return None
        columns, rows = self.tiles(size) if self.aspect == "anyres" else (0, 0)
        if crops != 1 + columns * rows:
            raise RegionError(
                f"image {image} of the batch: the vision tower ran on {crops} crops, but image_aspect_ratio="
                f"{self.aspect!r} makes {1 + columns * rows} of {size[0]}x{size[1]} pixels; image_sizes are (width, "
                "height) of the originals"
            )
        return columns, rows


def tell_unknown_words(config: Any) -> None:
    """Warn of words in a LLaVA's config that LLaVA takes for others, and say for which.

    Args:
        config: of the model.
    """
    aspect, merge = getattr(config, "image_aspect_ratio", None), getattr(config, "mm_patch_merge_type", "flat")
    text = "%s %r in the model's config is none of %s: %s; if another was meant, correct it in config.json"
    if aspect not in (None, *ASPECTS):
        tiles = ", without the tiles that the forks with this word make" if "anyres" in aspect else ""
        read = f"LLaVA reads it as 'square'{tiles}"
        logger.warning(text, "image_aspect_ratio", aspect, ", ".join(ASPECTS), read)
    if aspect == "anyres" and merge not in MERGES:  # without tiles nobody reads it
        word = "spatial_unpad" if "unpad" in merge else "spatial"
        read = f"LLaVA reads it as {word!r}" if merge.startswith("spatial") else "LLaVA refuses images"
        logger.warning(text, "mm_patch_merge_type", merge, ", ".join(MERGES), read)


def count_crops(images: Any) -> list[int]:
    """Crops of each image, given as LLaVA takes them: (B, 3, H, W), (B, N, 3, H, W), or a list of either."""
    if isinstance(images, Tensor) and images.ndim == 4:
        return [1] * len(images)
    return [1 if image.ndim == 3 else len(image) for image in images]


def set_pinpoints(model: Any, data_args: Any) -> None:
    """Give model and data the same ``image_grid_pinpoints`` before training.

    LLaVA hands the flag of the aspect ratio to the config only.

    Raises:
        ValueError: when neither has any, or the model lacks the newline that its merge type needs.
    """
    config, inner = model.config, model.get_model()
    if config.image_aspect_ratio != "anyres":
        return
    pinpoints = data_args.image_grid_pinpoints or getattr(config, "image_grid_pinpoints", None)
    if not pinpoints:
        raise ValueError(f"--image_aspect_ratio anyres needs --image_grid_pinpoints, {_EXAMPLE}")
    if "unpad" in config.mm_patch_merge_type and not hasattr(inner, "image_newline"):
        raise ValueError(
            f"--mm_patch_merge_type {config.mm_patch_merge_type} needs image_newline, which LLaVA makes with a new "
            "mm_projector only and this checkpoint lacks: use spatial or flat"
        )
    config.image_grid_pinpoints = data_args.image_grid_pinpoints = pinpoints


def freeze_unread_newline(model: Any) -> None:
    """Freeze ``image_newline`` unless it stands between rows of unpadded tiles: no gradient would reach it."""
    newline, config = getattr(model.get_model(), "image_newline", None), model.config
    read = config.image_aspect_ratio == "anyres" and "unpad" in config.mm_patch_merge_type
    if newline is not None and not read:
        newline.requires_grad_(False)


def _cells(first: Tensor, grids: Tensor, cells: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Crop, and row and column in it, of each cell of the joined maps, each broadcasting to (B, H', W').

    Args:
        first: (B,) the crop at each image's top left.
        grids: (B, 2) its columns and rows of crops, left to right and then down.
        cells: (H, W) of a crop.
    """
    height, width = cells
    ends = grids * torch.tensor([width, height])  # (B, 2)
    x, y = (torch.arange(int(end)) for end in ends.amax(0))
    x = torch.minimum(x, ends[:, :1] - 1)[:, None]  # (B, 1, W')
    y = torch.minimum(y, ends[:, 1:] - 1)[..., None]  # (B, H', 1)
    crop = first[:, None, None] + y // height * grids[:, :1, None] + x // width
    return crop, y % height, x % width


def _stitch(feature_map: Tensor, *cells: Tensor) -> Tensor:
    joined = feature_map.permute(0, 2, 3, 1)[tuple(index.to(feature_map.device) for index in cells)]
    return joined.permute(0, 3, 1, 2)  # (B, C, H', W'), channels-last
