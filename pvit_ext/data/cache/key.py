"""What a cache's maps depend on beside the images, in plain JSON types, and how two of these differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pvit_ext.distributed import gathered
from pvit_ext.encoders.own_tower import TowerEncoder

FORMAT = 2
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_PROBES = ((97, 61), (61, 97), (640, 20))
"""(width, height)."""


class CacheError(ValueError):
    """A cache that is not there, is damaged, or is of something else."""


def key_of(
    name: str,
    dtype: torch.dtype,
    settings: Mapping[str, Any],
    pixels: Iterable[Tensor],
    tensors: Mapping[str, Tensor],
) -> dict[str, Any]:
    """All that what is stored depends on but the image.

    Args:
        name: of what makes it.
        dtype: that the tower computes in.
        settings: in plain JSON types.
        pixels: of each of :func:`probes`.
        tensors: the tower's, by name.
    """
    tower, shown = hashlib.sha256(), hashlib.sha256()
    for tensor_name in sorted(tensors):
        _add(tower, tensor_name, tensors[tensor_name].to(dtype))
    for number, tensor in enumerate(pixels):
        _add(shown, str(number), tensor)
    return {
        "format": FORMAT,
        "encoder": name,
        "dtype": name_of(dtype),
        "settings": dict(settings),
        "pixels": shown.hexdigest(),
        "tower": tower.hexdigest(),
    }


def encoder_key(encoder: TowerEncoder, dtype: torch.dtype) -> dict[str, Any]:
    """The key of a region encoder's own tower; every rank has to call it under ZeRO-3.

    Args:
        encoder: with its weights.
        dtype: that its tower computes in, which maps are stored in.
    """
    with gathered(list(encoder.parameters())):
        settings, tensors = encoder.tower_state()
        return key_of(encoder.name, dtype, settings, map(encoder.pixels, probes()), tensors)


def probes() -> list[Image.Image]:
    """Images whose pixels tell one preprocessing from another."""
    return [_probe(number, size) for number, size in enumerate(_PROBES)]


def name_of(dtype: torch.dtype) -> str:
    """As in :data:`DTYPES`."""
    return str(dtype).removeprefix("torch.")


def width_of(dtype: torch.dtype) -> int:
    """Bytes of a number; torch 2.0 has no ``dtype.itemsize``."""
    return torch.finfo(dtype).bits // 8


def differences(stored: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """How a cache's key differs from another, in words.

    Args:
        stored: of the cache.
        own: of the encoder that would use it.
    """
    if stored.get("format") != own["format"]:
        return [f"its format is {stored.get('format')!r}, this version of pvit-ext reads {own['format']}"]
    if stored["encoder"] != own["encoder"]:
        return [f"it is of the encoder {stored['encoder']!r}, not {own['encoder']!r}"]
    found = []
    if stored["dtype"] != own["dtype"]:
        found.append(f"its maps are {stored['dtype']}, the tower computes in {own['dtype']} here")
    names = sorted(stored["settings"].keys() | own["settings"].keys())
    values = [(name, stored["settings"].get(name), own["settings"].get(name)) for name in names]
    changed = [f"{name} was {before!r}, is {now!r}" for name, before, now in values if before != now]
    if changed:
        found.append("another preprocessing: " + ", ".join(changed))
    elif stored["pixels"] != own["pixels"]:
        found.append("another preprocessing: the same image gives other pixels here, perhaps by another Pillow")
    if stored["tower"] != own["tower"] and stored["dtype"] == own["dtype"]:
        found.append("the tower has other weights")
    return found


def _add(digest: Any, name: str, tensor: Tensor) -> None:
    tensor = tensor.detach().cpu().contiguous()
    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())


def _probe(number: int, size: tuple[int, int]) -> Image.Image:
    pixels = np.random.RandomState(number).randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)
