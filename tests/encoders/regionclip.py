"""RegionCLIP towers of the tests, narrow, tiny or as the goldens have them, and their inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from pvit_ext.config import RegionConfig
from pvit_ext.encoders.base import RegionInputs
from pvit_ext.encoders.regionclip.encoder import RegionCLIP, build
from pvit_ext.regions.region import Region
from tests.goldens import rules

GOLDENS = Path(__file__).parents[1] / "goldens"
NARROW = {"layers": [2, 2, 3, 2], "width": 8, "heads": 4, "output_dim": 24, "pool": 18}
TINY = {"layers": [1, 1, 1, 1], "width": 8, "heads": 4, "output_dim": 12, "pool": 4}
TINY |= {"shortest_edge": 64, "longest_edge": 120}


def header(name: str, key: str) -> Any:
    with safe_open(GOLDENS / f"{name}.safetensors", "pt") as file:
        return json.loads(file.metadata()[key])


def golden(name: str) -> dict[str, Tensor]:
    return load_file(GOLDENS / f"{name}.safetensors")


def ruled_weights(name: str) -> dict[str, Tensor]:
    return {key: rules.weight(key, shape, 1) for key, shape in header(name, "shapes").items()}


def relative(a: Tensor, b: Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def loaded(options: dict[str, Any], content: Any, folder: Path) -> RegionCLIP:
    path = folder / "weights.pth"
    torch.save(content, path)
    encoder = build(RegionConfig(encoder_options=options))
    encoder.load_weights(str(path))
    return encoder


def tiny(seed: int = 0) -> RegionCLIP:
    """A tiny tower whose features differ clearly between regions."""
    torch.manual_seed(seed)
    encoder = build(RegionConfig(encoder_options=TINY))
    for name, parameter in encoder.named_parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
        elif name.endswith("proj.weight"):
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return encoder


def make_image(seed: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(rules.image("regionclip", size[1], size[0], seed))


def inputs_of(encoder: RegionCLIP, samples: list[tuple[Image.Image, list[Region]]]) -> RegionInputs:
    """A batch as the collator makes it; an image without regions has no extra."""
    return RegionInputs(
        regions=[region.resolve(image.size) for image, regions in samples for region in regions],
        image_index=torch.tensor([i for i, (_, regions) in enumerate(samples) for _ in regions], dtype=torch.int64),
        image_sizes=[image.size for image, _ in samples],
        extra=[encoder.preprocess(image, regions) if regions else None for image, regions in samples],
    )
