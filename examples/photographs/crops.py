"""A region encoder that lets the vision tower look again, at a crop around each region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pvit_ext import RegionEncoder, RegionInputs
from pvit_ext.encoders.options import builder
from pvit_ext.regions.region import ResolvedRegion, Size


@dataclass(frozen=True)
class CropOptions:
    """Sizes of the crop and of its tokens.

    Args:
        side: pixels of the square that a crop is resized to.
        margin: what is added at each side of the box, in its extents.
        grid: tokens a side.
        scale: of the features, so that new region tokens are not far larger than the language model's words.
    """

    side: int = 128
    margin: float = 0.15
    grid: int = 2
    scale: float = 1.0


class Crops(RegionEncoder):
    """``grid * grid`` tokens a region: the vision tower's coarse map of its crop."""

    name: ClassVar[str] = "crops"

    def __init__(self, options: CropOptions, tower_config: Any) -> None:
        super().__init__()
        self.options = options
        self.tokens_per_region, self.feature_dim = options.grid**2, tower_config.hidden_size

    def preprocess(self, image: Image.Image, regions: list[ResolvedRegion]) -> dict[str, Tensor]:
        """Crops (m, 3, side, side) uint8."""
        side = (self.options.side, self.options.side)
        crops = [image.resize(side, Image.Resampling.BICUBIC, self.crop_box(one, image.size)) for one in regions]
        return {"crops": torch.from_numpy(np.stack([np.array(crop) for crop in crops])).permute(0, 3, 1, 2)}

    def crop_box(self, region: ResolvedRegion, size: Size) -> tuple[float, float, float, float]:
        """The box around a region with its margin, cut at the image's edges."""
        x0, y0, x1, y1 = region.bounds(size)
        across, down = (x1 - x0) * self.options.margin, (y1 - y0) * self.options.margin
        return max(x0 - across, 0.0), max(y0 - down, 0.0), min(x1 + across, size[0]), min(y1 + down, size[1])

    def dummy_extra(self) -> dict[str, Tensor]:
        """One black crop."""
        return {"crops": torch.zeros(1, 3, self.options.side, self.options.side, dtype=torch.uint8)}

    def forward(self, inputs: RegionInputs) -> Tensor:
        """Features (M, T, C) of the tower's dtype.

        Args:
            inputs: with ``extra[i]["crops"]`` for every image that has a region, in the order of its regions, and the
                ``tower``.
        """
        tower = inputs.tower
        if not inputs.regions:
            return torch.zeros(0, self.tokens_per_region, self.feature_dim, device=tower.device, dtype=tower.dtype)
        order = inputs.image_index.argsort(stable=True)
        seen = inputs.image_index[order].unique_consecutive().tolist()
        crops = torch.cat([extra["crops"] for image in seen if (extra := inputs.extra[image])])  # (M, 3, side, side)
        with torch.no_grad():
            pixels = _normalized(crops.to(tower.device), tower.image_processor).to(tower.dtype)
            coarse = tower.feature_maps(tower.vision_tower(pixels))[-1]
            tokens = F.adaptive_avg_pool2d(coarse, self.options.grid).flatten(2).transpose(1, 2)  # (M, T, C)
        return tokens[order.argsort()] * self.options.scale


def _normalized(crops: Tensor, processor: Any) -> Tensor:
    """Crops uint8 -> pixels as the tower knows them, float32."""
    unit = crops.float() / 255
    mean, std = (unit.new_tensor(value).view(3, 1, 1) for value in (processor.image_mean, processor.image_std))
    return (unit - mean) / std


build = builder(Crops, CropOptions)
