"""Focal crops: the vision tower sees a crop around each region too, and its layers attend to the whole image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.encoders.options import builder, check_layers
from pvit_ext.encoders.weights import KeyMap, StateDict
from pvit_ext.ops.hooks import own_hooks
from pvit_ext.ops.varlen_attention import varlen_cross_attention
from pvit_ext.regions.region import ResolvedRegion, Size

REGIONS_PER_PASS = 16
"""Crops a pass of the tower without gradients; with them all go at once: every rank runs it once a step."""


@dataclass(frozen=True)
class FocalOptions:
    """Sizes of the crop and of its tokens.

    Args:
        context: side of the crop, as a multiple of the side of the region's box.
        least: pixels of the original; shorter sides of a box count as this long.
        layer: hidden layer of the vision tower to read.
        shuffle: side of the square of patches that becomes one token, concatenated in C.
    """

    context: float = 3.0
    least: int = 48
    layer: int = -2
    shuffle: int = 2


class FocalBlock(nn.Module):
    """Gated cross-attention to the patches of the whole image, then a gated MLP; runs behind one layer of the tower.

    Args:
        tower_config: of the vision tower, for its sizes, activation and epsilon.
    """

    def __init__(self, tower_config: Any) -> None:
        super().__init__()
        width, inner, eps = tower_config.hidden_size, tower_config.intermediate_size, tower_config.layer_norm_eps
        self.heads = tower_config.num_attention_heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(width, inner), ACT2FN[tower_config.hidden_act], nn.Linear(inner, width))
        self.attention_gate, self.mlp_gate = nn.Embedding(1, 1), nn.Embedding(1, 1)
        for gate in (self.attention_gate, self.mlp_gate):
            nn.init.zeros_(gate.weight)

    def forward(self, hidden: Tensor, patches: Tensor, counts: Tensor) -> Tensor:
        """Hidden states (M, N, C) of crops, in the order of their images -> (M, N, C) of the same dtype.

        Args:
            patches: (images, P, C) of the whole images.
            counts: (images,) int64, crops of each.
        """
        x, first = hidden.to(self.query.weight.dtype), torch.zeros(1, dtype=torch.int64, device=hidden.device)
        queries = self.query(self.norm_attention(x)).flatten(0, 1)
        parts = queries, *(project(patches).flatten(0, 1) for project in (self.key, self.value))
        query, key, value = (part.unflatten(1, (self.heads, -1)) for part in parts)
        bounds = F.pad((counts * x.shape[1]).cumsum(0), (1, 0)), torch.arange(len(counts) + 1) * patches.shape[1]
        attended = varlen_cross_attention(query, key, value, *bounds).flatten(1)
        change = self.attention_gate(first) * self.out(attended).view_as(x)
        change = change + self.mlp_gate(first) * self.mlp(self.norm_mlp(x + change))
        return hidden + change.to(hidden.dtype)


class Focal(RegionEncoder):
    """T tokens per region: the tower's features of a crop around it, whose mask enters beside its pixels.

    Mask embedding and gates start at zero, so that the tower starts unchanged. The whole image's features are those
    that LLaVA computes anyway; the original runs the tower on the image again for every region, with its mask. Layers
    behind the one that is read have no block.

    Source: Describe Anything (arXiv 2504.16072).

    Args:
        options: sizes.
        tower_config: of the vision tower.
    """

    name: ClassVar[str] = "focal"
    reads_tiles = False

    def __init__(self, options: FocalOptions, tower_config: Any) -> None:
        super().__init__()
        if options.context < 1 or options.least < 1 or options.shuffle < 1:
            raise ValueError(f"focal's context, least and shuffle are 1 or more, got {options}")
        if tower_config.image_size is None:
            raise ValueError(
                "region encoder 'focal' shows crops to the vision tower, which has to take images of one size; this "
                "one takes any: choose another encoder, such as osprey"
            )
        self.options, self.side, self.patch = options, tower_config.image_size, tower_config.patch_size
        self.feature_layers = check_layers((options.layer,), tower_config)
        depth = options.layer % (tower_config.num_hidden_layers + 1)
        if not depth:
            raise ValueError("focal reads a layer of the tower; layer 0 is the embedding of patches: choose another")
        self.tokens_per_region = math.ceil(self.side // self.patch / options.shuffle) ** 2
        self.feature_dim = tower_config.hidden_size * options.shuffle**2
        self.mask_embedding = nn.Conv2d(1, tower_config.hidden_size, self.patch, stride=self.patch, bias=False)
        nn.init.zeros_(self.mask_embedding.weight)
        self.blocks = nn.ModuleList(FocalBlock(tower_config) for _ in range(depth))
        leaves = {
            "attn_factor": "attention_gate.weight",
            "mlp_factor": "mlp_gate.weight",
            **{f"cross_attn.{key[0]}_proj.": f"{key}." for key in ("query", "key", "value")},
            "cross_attn.out_proj.": "out.",
            "layer_norm1.": "norm_attention.",
            "layer_norm2.": "norm_mlp.",
            "mlp.fc1.": "mlp.0.",
            "mlp.fc2.": "mlp.2.",
        }
        pairs = ((f"layers.{i}.{old}", f"blocks.{i}.{new}") for i in range(depth) for old, new in leaves.items())
        self.keys = KeyMap("context_provider_module", tuple(pairs))

    def preprocess(self, image: Image.Image, regions: list[ResolvedRegion]) -> dict[str, Tensor]:
        """Crops (m, 4, side, side) uint8: RGB, and how much of a pixel the region covers."""
        crops = []
        for region in regions:
            box, mask = self.crop_box(region, image.size), Image.fromarray(region.to_mask(image.size))
            pixels = image.crop(box).resize((self.side, self.side), Image.Resampling.BICUBIC)
            coverage = mask.convert("L").crop(box).resize((self.side, self.side), Image.Resampling.BILINEAR)
            crops.append(torch.from_numpy(np.dstack([np.array(pixels), np.array(coverage)])).permute(2, 0, 1))
        return {"crops": torch.stack(crops)}

    def crop_box(self, region: ResolvedRegion, size: Size) -> tuple[int, int, int, int]:
        """Left, top, right, bottom pixel of the crop around a resolved region."""
        box, ends = region.bounds(size), []
        for axis in (0, 1):
            centre, side = (box[axis] + box[axis + 2]) / 2, max(box[axis + 2] - box[axis], self.options.least)
            reach = side * self.options.context / 2
            ends.append((max(math.floor(centre - reach), 0), min(math.floor(centre + reach), size[axis])))
        (left, right), (top, bottom) = ends
        return left, top, right, bottom

    def dummy_extra(self) -> dict[str, Tensor]:
        """One black crop."""
        return {"crops": torch.zeros(1, 4, self.side, self.side, dtype=torch.uint8)}

    def load_weights(self, path: str) -> None:
        """Load Describe Anything's ``context_provider`` and, from its tower, the mask's part of the patch embedding.

        Raises:
            ValueError: unless all tensors fit.
        """
        self._key_map(path).load(self, path, self._reshaped)

    def _reshaped(self, tensors: StateDict) -> StateDict:
        result, module = {}, self._key_map("").module
        for key, value in tensors.items():
            _, _, inner = key.rpartition(f"{module}.layers.")
            if key.endswith("patch_embedding.weight") and value.shape[1] == 4:
                result[f"{module}.mask_embedding.weight"] = value[:, 3:]
            elif inner == key or int(inner.split(".")[0]) < len(self.blocks):
                result[key] = value.reshape(1, 1) if key.endswith("_factor") else value
        return result

    def forward(self, inputs: RegionInputs) -> Tensor:
        """Features (M, T, C) of the tower's dtype.

        Args:
            inputs: with one feature map (B, hidden, H, W), ``extra[i]["crops"]`` for every image that has a region, and
                the ``tower``.
        """
        (feature_map,) = inputs.feature_maps
        if not inputs.regions:
            return feature_map.new_zeros(0, self.tokens_per_region, self.feature_dim)
        order = inputs.image_index.argsort(stable=True)
        index = inputs.image_index[order].to(feature_map.device)
        crops = torch.cat([_crops(inputs, image) for image in index.unique_consecutive().tolist()])
        patches = feature_map.flatten(2).transpose(1, 2)  # (B, P, hidden)
        at_once = len(crops) if torch.is_grad_enabled() else REGIONS_PER_PASS
        hidden = [
            self.encode(inputs.tower, *self._normalized(part, inputs.tower), patches, of_image)
            for part, of_image in zip(crops.split(at_once), index.split(at_once), strict=True)
        ]
        return self._shuffled(torch.cat(hidden))[order.argsort()]

    def encode(
        self, tower: Any, pixels: Tensor, masks: Tensor, patches: Tensor | None = None, index: Tensor | None = None
    ) -> Tensor:
        """One pass of the tower: patches (M, P, hidden) of its chosen layer.

        Args:
            tower: LLaVA's vision tower.
            pixels: (M, 3, side, side), normalised for the tower.
            masks: (M, 1, side, side) in -1..1.
            patches: (B, P, hidden) of the whole images; None to attend to none.
            index: (M,) int64, ascending: the whole image of each.
        """
        vision: nn.Module = tower.vision_tower
        inner: Any = getattr(vision, "vision_model", vision)
        counts, states = None, list[Tensor]()
        if patches is not None and index is not None:
            images, counts = index.unique_consecutive(return_counts=True)
            patches, counts = patches[images].to(self.mask_embedding.weight.dtype), counts.cpu()
        coverage = masks.to(self.mask_embedding.weight)

        def add_mask(_args: Any, _kwargs: Any, output: Tensor) -> Tensor:
            return output + self.mask_embedding(coverage).to(output.dtype)

        def look_around(_args: Any, _kwargs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output  # a tuple until transformers 4
            if counts is not None:
                hidden = self.blocks[len(states)](hidden, patches, counts)
            states.append(hidden)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        layers = inner.encoder.layers[: len(self.blocks)]
        hooks = [(inner.embeddings.patch_embedding, add_mask), *((layer, look_around) for layer in layers)]
        with own_hooks(hooks), _evaluating(vision):
            vision(pixels.to(inner.embeddings.patch_embedding.weight))
        return states[-1][:, -((self.side // self.patch) ** 2) :]  # a class token leads

    def _normalized(self, crops: Tensor, tower: Any) -> tuple[Tensor, Tensor]:
        """Crops (M, 4, side, side) uint8 -> pixels (M, 3, side, side) as the tower knows them, masks in -1..1."""
        processor, unit = tower.image_processor, crops.to(self.mask_embedding.weight.device).float() / 255
        mean, std = (unit.new_tensor(value).view(3, 1, 1) for value in (processor.image_mean, processor.image_std))
        return (unit[:, :3] - mean) / std, unit[:, 3:] * 2 - 1

    def _shuffled(self, patches: Tensor) -> Tensor:
        """Patches (M, P, hidden) -> tokens (M, T, C), row by row; zeros fill up the last squares."""
        grid, side = self.side // self.patch, self.options.shuffle
        square = F.pad(patches.unflatten(1, (grid, grid)), (0, 0, 0, -grid % side, 0, -grid % side))
        return rearrange(square, "m (h a) (w b) c -> m (h w) (a b c)", a=side, b=side)


@contextmanager
def _evaluating(tower: nn.Module) -> Iterator[None]:
    """Evaluation mode for one pass: gradient checkpointing would run the layers again without their hooks."""
    training = [module for module in tower.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _crops(inputs: RegionInputs, image: int) -> Tensor:
    count, extra = inputs.image_numbers.count(image), inputs.extra[image]
    if extra is None or len(extra["crops"]) != count:
        raise ValueError(f"image {image} has {count} regions, but other crops; put Focal.preprocess(...) into extra")
    return extra["crops"]


build = builder(Focal, FocalOptions)
