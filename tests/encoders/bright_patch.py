"""Images with a bright patch, regions on them, and towers that see brightness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import pvit_ext
from pvit_ext import Query, Region, RegionConfig
from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.hosts.llava.batch import build_prompt, collate
from pvit_ext.hosts.llava.chat import conversation
from pvit_ext.ops.roi_align import roi_align

SIDE, PATCH = 112, 7


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


def make_tower_see_brightness(tower: Any) -> None:
    """Channel 0 of a patch becomes its mean pixel, whatever the layer: no attention, no MLP, no position, no norm."""
    vision = getattr(tower.vision_tower, "vision_model", tower.vision_tower)
    with torch.no_grad():
        for name, parameter in vision.named_parameters():
            if name.endswith(("out_proj.weight", "fc2.weight", "position_embedding.weight", "class_embedding", "bias")):
                parameter.zero_()
        embedding = vision.embeddings
        embedding.patch_embedding.weight.zero_()
        embedding.patch_embedding.weight[0] = 1 / (3 * PATCH * PATCH)
    vision.pre_layrnorm = torch.nn.Identity()


Loaded = tuple[Any, Any, Any]


def features(loaded: Loaded, images: Image.Image | list[Image.Image], regions: list[Region], token: int = 0) -> Tensor:
    """A token that the encoder gives for the regions of one prompt, on its way through the model's forward."""
    return features_of_each(loaded, [images], regions, token)[0]


def features_of_each(
    loaded: Loaded, images: Sequence[Image.Image | list[Image.Image]], regions: list[Region], token: int = 0
) -> Tensor:
    """The same (B, M, C) of one prompt for each image, or each list of them, in one batch."""
    tokenizer, model, processor = loaded
    queries = [Query(one, "Compare " + "<region>" * len(regions), regions) for one in images]
    prompts = [build_prompt(query, conversation(model), "q", model) for query in queries]
    batch = collate(model, tokenizer, processor, queries, prompts)
    seen: list[Tensor] = []
    handle = model.get_model().region_encoder.register_forward_hook(lambda _m, _a, out: seen.append(out))
    with torch.no_grad():
        model(batch.pop("inputs"), **batch)
    handle.remove()
    return seen[0][:, token].unflatten(0, (len(queries), len(regions)))


# Asymmetric layouts inside the middle square, so that a centre crop keeps them: fractions of that square.
PLACES = [(0.05, 0.05, 0.35, 0.25), (0.6, 0.1, 0.95, 0.45), (0.1, 0.5, 0.3, 0.95), (0.55, 0.6, 0.8, 0.9)]
SIZES = [(96, 96), (180, 100), (100, 180)]


def boxes_on(size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return [
        (left + int(a * side), top + int(b * side), left + int(c * side), top + int(d * side)) for a, b, c, d in PLACES
    ]


def draw(size: tuple[int, int], bright: tuple[int, int, int, int]) -> Image.Image:
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    x0, y0, x1, y1 = bright
    pixels[y0:y1, x0:x1] = 255
    return Image.fromarray(pixels)


def smooth(size: tuple[int, int]) -> Image.Image:
    """A picture without symmetry and without detail that a resize could move."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    value = 255 * (0.5 * x**2 + 0.3 * y + 0.2 * x * y)
    return Image.fromarray(np.repeat(value[..., None], 3, 2).astype(np.uint8))
