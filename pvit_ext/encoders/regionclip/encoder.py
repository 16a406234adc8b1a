"""RegionCLIP region encoder: a second, frozen CLIP ResNet sees the whole image; regions are pooled from its res4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pvit_ext.config import RegionConfig
from pvit_ext.encoders.base import RegionInputs
from pvit_ext.encoders.options import read_options
from pvit_ext.encoders.own_tower import TowerEncoder
from pvit_ext.encoders.regionclip.clip_resnet import STRIDE, CLIPResNet, cells
from pvit_ext.encoders.regionclip.weights import load_visual
from pvit_ext.ops.roi_align import roi_align
from pvit_ext.regions.region import Size
from pvit_ext.regions.view import View

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
REGIONS_PER_PASS = 64
"""Regions that go through layer4 at once; bounds memory, about 20 MB each for RN50x4 in float32."""


@dataclass(frozen=True)
class RegionCLIPOptions:
    """Sizes of a RegionCLIP tower; the defaults are those of ``regionclip_pretrained-cc_rn50x4``.

    Args:
        layers: bottlenecks in layer1 to layer4.
        width: channels after the stem.
        heads: heads of the attention pool.
        output_dim: C of a region.
        pool: RoIAlign cells per side; layer4 halves it to the grid of the positional embedding.
        shortest_edge: the image's shorter side is resized to this many pixels,
        longest_edge: unless its longer side would exceed this many.
    """

    layers: tuple[int, ...] = (4, 6, 10, 6)
    width: int = 80
    heads: int = 40
    output_dim: int = 640
    pool: int = 18
    shortest_edge: int = 800
    longest_edge: int = 1333


ARCHITECTURES = {
    "rn50x4": RegionCLIPOptions(),
    "rn50": RegionCLIPOptions(layers=(3, 4, 6, 3), width=64, heads=32, output_dim=1024, pool=14),
}


class RegionCLIP(TowerEncoder):
    """One feature per region from RegionCLIP's own image path, as PVIT uses it.

    The tower starts frozen. It computes in its parameters' dtype under any autocast; coordinates are float32.
    Images are never padded, so a region's feature is the same alone and in any batch.

    Source: PVIT (arXiv 2308.13437), RegionCLIP (arXiv 2112.09106).
    """

    name: ClassVar[str] = "regionclip"
    weights_from: ClassVar[str] = "github.com/microsoft/RegionCLIP"

    def __init__(self, options: RegionCLIPOptions) -> None:
        super().__init__()
        self.options = options
        self.feature_dim = options.output_dim
        self.backbone = CLIPResNet(options.layers, options.width, options.heads, options.output_dim, options.pool)
        self.requires_grad_(False)

    def pixels(self, image: Image.Image) -> Tensor:
        """Resized pixels, uint8 (3, h, w); normalised on the device, because trainers cast floating inputs to bf16."""
        size = self.view_size(image.size)
        resized = image.convert("RGB").resize(size, Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()  # (3, h, w)

    def view_size(self, source: Size) -> Size:
        """(width, height) of the tower's view; at least one cell of res4, below which the original would crash."""
        view = View.shortest_edge(source, self.options.shortest_edge, self.options.longest_edge)
        return max(view.size[0], STRIDE), max(view.size[1], STRIDE)

    def map_shape(self, source: Size) -> tuple[int, int, int]:
        """(C, H, W) of res4."""
        width, height = self.view_size(source)
        return 16 * self.options.width, cells(height), cells(width)

    def tower_state(self) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
        """The sizes of the view, and the tensors of the trunk."""
        settings = {name: getattr(self.options, name) for name in ("shortest_edge", "longest_edge")}
        tensors = self.backbone.state_dict().items()
        return settings, {name: value for name, value in tensors if not name.startswith(("layer4.", "attnpool."))}

    def dummy_pixels(self) -> Tensor:
        """Pixels of one cell of res4: :meth:`pixels` would enlarge them."""
        return torch.zeros(3, STRIDE, STRIDE, dtype=torch.uint8)

    def load_weights(self, path: str) -> None:
        """Load a RegionCLIP or CLIP ResNet checkpoint, or a saved folded one; see :func:`load_visual`.

        Raises:
            ValueError: unless all tensors fit.
        """
        load_visual(self.backbone, path)

    def forward(self, inputs: RegionInputs) -> Tensor:
        """Features (M, 1, C) of the parameters' dtype.

        Args:
            inputs: with ``extra[i]["pixels"]``, uint8 (3, h, w), or a map's number, for every image with regions.
        """
        trains = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in self.parameters())
        with torch.set_grad_enabled(trains), torch.autocast(self._weight.device.type, enabled=False):
            return self.heads(self._crops_of(inputs))[:, None]  # (M, 1, C)

    def _crops_of(self, inputs: RegionInputs) -> Tensor:
        """:meth:`crops` (M, 16 width, P, P) of all regions, in their order.

        All go on at once, so that layer4's weights, which a CPU lays out anew for each call, are read once.
        """
        order, crops = [], []
        for size, images in self.passes(inputs):
            regions, boxes, index = (part.to(self._weight.device) for part in _regions_of(images, size, inputs))
            order.append(regions)
            crops.append(self.crops(self.maps(images, inputs), boxes, index))
        if not order:
            return self._weight.new_zeros(0, 16 * self.options.width, self.options.pool, self.options.pool)
        cells = torch.cat([one.permute(0, 2, 3, 1) for one in crops])  # (M, P, P, 16 width)
        return cells[torch.cat(order).argsort()].permute(0, 3, 1, 2)

    def run_tower(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, h, w) -> res4 (B, 16 width, H, W)."""
        return self.backbone.trunk(self.normalize(pixels).to(self._weight.dtype))

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8 (B, 3, h, w) -> float32 (B, 3, h, w) on the tower's device, with CLIP's mean and deviation."""
        device = self._weight.device
        mean, std = (torch.tensor(value, device=device).view(3, 1, 1) for value in (CLIP_MEAN, CLIP_STD))
        return (pixels.to(device).float() / 255 - mean) / std

    def encode(self, pixels: Tensor, boxes: Tensor, image_index: Tensor) -> Tensor:
        """Features (M, C) of boxes on normalised images of one size.

        Args:
            pixels: (B, 3, h, w) floating, normalised.
            boxes: (M, 4) xyxy float32, in these pixels.
            image_index: (M,) int64.
        """
        return self.pool(self.backbone.trunk(pixels.to(self._weight.dtype)), boxes, image_index)

    def pool(self, res4: Tensor, boxes: Tensor, image_index: Tensor) -> Tensor:
        """Features (M, C) of boxes on maps (B, 16 width, H, W); arguments as of :meth:`encode`."""
        return self.heads(self.crops(res4, boxes, image_index))

    def crops(self, res4: Tensor, boxes: Tensor, image_index: Tensor) -> Tensor:
        """The parts (M, 16 width, P, P) of maps (B, 16 width, H, W) under boxes; arguments like :meth:`encode`'s."""
        return roi_align(res4, boxes, image_index, self.options.pool, 1 / STRIDE)

    def heads(self, crops: Tensor) -> Tensor:
        """Features (M, C) of :meth:`crops`."""
        if not len(crops):
            return crops.new_zeros(0, self.feature_dim)
        return torch.cat([self.backbone.head(part) for part in crops.split(REGIONS_PER_PASS)])  # (M, C)

    @property
    def _weight(self) -> Tensor:
        return self.backbone.conv1.weight


def _regions_of(images: list[int], size: Size, inputs: RegionInputs) -> tuple[Tensor, Tensor, Tensor]:
    """The N regions on these images: numbers (N,), boxes in the tower's pixels (N, 4), index into ``images`` (N,)."""
    regions, boxes, index = [], [], []
    for number, image in enumerate(images):
        on_image = (inputs.image_index == image).nonzero().flatten()
        regions.append(on_image)
        boxes.append(View.resize(inputs.image_sizes[image], size).map_boxes(inputs.boxes[on_image]))
        index.append(torch.full_like(on_image, number))
    return torch.cat(regions), torch.cat(boxes), torch.cat(index)


def build(config: RegionConfig, tower_config: Any = None) -> RegionCLIP:
    """Build from ``config.encoder_options``: ``arch`` (``rn50x4``, ``rn50``) and fields of :class:`RegionCLIPOptions`.

    Raises:
        ValueError: for an unknown architecture or option.
    """
    values = dict(config.encoder_options or {})
    arch = values.pop("arch", "rn50x4")
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown RegionCLIP arch {arch!r}; known: {', '.join(ARCHITECTURES)}")
    return RegionCLIP(read_options(RegionCLIPOptions, values, "RegionCLIP", "arch", **vars(ARCHITECTURES[arch])))
