"""Models of both hosts whose vision tower shows brightness alone, and what a region encoder reads there."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import pvit_ext
from pvit_ext import Query, Region, RegionConfig
from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.ops.roi_align import roi_align
from pvit_ext.regions.region import Size
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST, Parts, batch_of, load, logits
from tests.tiny import build_llava

SIDE = 112
CONFIG = RegionConfig("test_tower_roi")
VIEWS = ["llava/square", "llava/crop", "llava/pad"]
"""What LLaVA's tower can see of an image; then families of transformers, each with its own views."""
if HAS_TRANSFORMERS_HOST:
    VIEWS += [
        f"transformers/{name}" for name in ("llava", "llava_pad", "llava_siglip", "llava_next", "llava_onevision")
    ]


@pvit_ext.register_region_encoder("test_tower_roi")
class TowerRoI(RegionEncoder):
    """Mean of the vision tower's last-but-one hidden layer inside the box."""

    name: ClassVar[str] = "test_tower_roi"
    feature_layers = (-2,)

    def __init__(self, config: RegionConfig, tower_config: Any) -> None:
        super().__init__()
        self.feature_dim, self.patch = tower_config.hidden_size, tower_config.patch_size

    def forward(self, inputs: RegionInputs) -> Tensor:
        (maps,) = inputs.feature_maps
        pooled = roi_align(maps, inputs.tower_boxes, inputs.image_index, 4, 1 / self.patch)  # (M, C, 4, 4)
        return pooled.mean((2, 3))[:, None]


def see_brightness(tower: nn.Module) -> None:
    """Channel 0 of a cell becomes its mean pixel, whatever the layer: no attention, no MLP, no position, no norm."""
    silent = ("out_proj.weight", "fc2.weight", "position_embedding.weight", "class_embedding", "bias")
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if name.endswith(silent):
                parameter.zero_()
        for module in tower.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.zero_()
                module.weight[0] = 1 / module.weight[0].numel()
            if hasattr(module, "pre_layrnorm"):
                module.pre_layrnorm = nn.Identity()


def make_looking(name: str, tmp: pytest.TempPathFactory) -> Parts:
    """A model of a name in :data:`VIEWS`, with a tower of 16x16 cells and the encoder above."""
    kind, _, view = name.partition("/")
    if kind == "llava":
        folder = build_llava(tmp.mktemp("fine") / view, tower_side=SIDE, tokenizer_model_max_length=2048)
        parts = load(folder, region_config=CONFIG)
        parts.model.config.image_aspect_ratio = "pad" if view == "pad" else None
        if view == "square":
            parts.processor.size, parts.processor.do_center_crop = {"height": SIDE, "width": SIDE}, False
        see_brightness(parts.model.get_vision_tower())
        return parts
    from pvit_ext.hosts.transformers.families import family_of
    from tests.hosts.transformers import zoo

    makes = {"llava_pad": partial(zoo.llava, pad=True), "llava_siglip": partial(zoo.llava, tower=zoo.siglip)}
    model, processor = makes.get(view, getattr(zoo, view, None))(SIDE, 7)
    pvit_ext.attach(model, CONFIG, processor=processor)
    see_brightness(family_of(model.config).tower(model.base_model))
    return Parts(model.eval(), processor.tokenizer, processor)


def features(parts: Parts, images: Image.Image | list[Image.Image], regions: list[Region], token: int = 0) -> Tensor:
    """A token (M, C) that the encoder gives for the regions of one prompt, on its way through the model's forward."""
    return features_of_each(parts, [images], regions, token)[0]


def features_of_each(
    parts: Parts, images: Sequence[Image.Image | list[Image.Image]], regions: list[Region], token: int = 0
) -> Tensor:
    """Like :func:`features`, (B, M, C): one prompt for each image, or each list of them, in one batch."""
    queries = [Query(one, "Compare " + "<region>" * len(regions), regions) for one in images]
    return features_of_queries(parts, queries, token).unflatten(0, (len(queries), len(regions)))


def features_of_queries(parts: Parts, queries: Sequence[Query], token: int = 0) -> Tensor:
    """Like :func:`features`, (M, C): all regions of a batch."""
    seen: list[Tensor] = []
    encoder = parts.model.region_module.region_encoder
    handle = encoder.register_forward_hook(lambda _module, _args, out: seen.append(out))
    logits(parts.model, batch_of(parts, queries))
    handle.remove()
    return seen[0][:, token]


def draw(size: Size, bright: tuple[int, int, int, int]) -> Image.Image:
    """A black image with a white box."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    x0, y0, x1, y1 = bright
    pixels[y0:y1, x0:x1] = 255
    return Image.fromarray(pixels)


def smooth(size: Size) -> Image.Image:
    """An image without symmetry and without detail that a resize could move."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    value = 255 * (0.5 * x**2 + 0.3 * y + 0.2 * x * y)
    return Image.fromarray(np.repeat(value[..., None], 3, 2).astype(np.uint8))
