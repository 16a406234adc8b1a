"""What an encoder costs: its parameters, and the milliseconds that regions add to an image LLaVA reads anyway."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from PIL import Image

from examples.quickstart.towers import IMAGE_CONFIG, Scenes
from pvit_ext.hosts.llava.image_layout import ImageLayout, count_crops
from pvit_ext.hosts.llava.inputs import build_inputs
from pvit_ext.hosts.llava.tower import capture_feature_maps
from pvit_ext.regions.region import Region
from pvit_ext.tokens.binding import BoundRegions
from pvit_ext.tokens.processor import RegionProcessor

REPEATS = 40
MORE = 9
"""Regions of the second timing, as many as overlay tells apart; what they take beyond one is the price of a region."""


def parameters(model: Any) -> dict[str, int]:
    """Parameters of the region encoder and the region projector, and those of them that stage 2 trains."""
    inner = model.get_model()
    own = [*inner.region_encoder.parameters(), *inner.region_projector.parameters()]
    return {"parameters": sum(p.numel() for p in own), "trained": sum(p.numel() for p in own if p.requires_grad)}


def encode_times(model: Any, processor: Any, scenes: Scenes) -> dict[str, float]:
    """Milliseconds for an image with one box, and for each further box; quantiles 10, 50 and 90 over repeats.

    From image and boxes to region tokens, with what the encoder does in data workers; without LLaVA's vision tower,
    unless the encoder runs it again.
    """
    image = scenes[0][0].image
    boxes = [d.box for scene, _ in scenes if scene.image.size == image.size for d in scene.digits][:MORE]
    boxes = (boxes * MORE)[:MORE]  # a budget of a few scenes has too few
    encode = _encoder(model, processor, image)
    encode(boxes)
    took = np.array([[_milliseconds(encode, boxes[:1]), _milliseconds(encode, boxes)] for _ in range(REPEATS)])
    cases = {"image": took[:, 0], "region": (took[:, 1] - took[:, 0]) / (MORE - 1)}
    return {
        f"{case}_ms_p{percent}": round(float(np.percentile(values, percent)), 4)
        for case, values in cases.items()
        for percent in (10, 50, 90)
    }


def _milliseconds(encode: Any, boxes: Any) -> float:
    start = time.perf_counter()
    encode(boxes)
    return (time.perf_counter() - start) * 1e3


def _encoder(model: Any, processor: Any, image: Image.Image) -> Any:
    """A function from boxes on an image to region tokens, whose feature maps are made beforehand."""
    from llava.mm_utils import process_images

    encoder, tower, context = (
        model.get_model().region_encoder,
        model.get_vision_tower(),
        model.region_config.cross_layers,
    )
    layers = [*encoder.feature_layers, *[tower.select_layer] * (context > 0)]
    pixels = process_images([image], processor, IMAGE_CONFIG).to(model.device, model.dtype)
    with torch.inference_mode(), capture_feature_maps(tower, layers) as maps:
        tower(pixels)

    @torch.inference_mode()
    def encode(boxes: list[Any]) -> None:
        regions = [Region.box(*box) for box in boxes]
        sample = RegionProcessor(encoder)([image], ["<region>"] * len(regions), regions, "timing")
        if sample.regions:
            bound = BoundRegions(sample.regions, [0] * len(sample.regions))
            crops, layout, extra = count_crops(pixels), ImageLayout.of(model), sample.extra
            model.encode_regions(build_inputs(encoder, bound, sample.sizes, maps, crops, extra, layout, model.device))
        if model.device.type == "cuda":
            torch.cuda.synchronize()

    return encode
