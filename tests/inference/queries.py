"""Queries of every kind, and greedy decoding without a cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from packaging.version import Version
from PIL import Image

from pvit_ext import Query, Region
from tests.tiny import TINY_REGIONCLIP

OPTIONS = {**TINY_REGIONCLIP, "shortest_edge": 32, "longest_edge": 64}
Loaded = tuple[Any, Any, Any]


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


WIDE, TALL, SQUARE = photo(60, 40, 1), photo(30, 50, 2), photo(40, 40, 3)
BOX, OTHER = Region.box(3, 4, 20, 30), Region.box(10, 2, 29, 38)

MIXED = [
    Query(WIDE, "What is <region> doing with <region>?", [BOX, Region.point(30, 30)]),
    Query(WIDE, "Describe the image."),
    Query([TALL, SQUARE], "Compare <region> with <region>.", [OTHER, Region.box(0, 0, 40, 20, image=1)]),
    Query(None, "What is this?"),
    Query(TALL, "And <region>?", [OTHER, BOX], history=[("What is in <region>?", "a dog"), ("Red?", "blue")][:1]),
    Query([SQUARE, TALL], "These <image> with <image>: the <region>?", [Region.box(1, 2, 25, 45, image=1)]),
    Query(SQUARE, "Compare <Region><L100><L200><L700><L800></Region> with <region>", [BOX]),
]


def new(ids: torch.Tensor) -> list[int]:
    """Generated ids; transformers 4.36 and 4.37 put BOS before them when the prompt goes in as embeddings."""
    return ids[int(Version(transformers.__version__) < Version("4.38")) :].tolist()


def recompute(model: Any, batch: dict[str, Any], steps: int) -> list[int]:
    """Greedy decoding of one prompt by a full forward pass per token."""
    ids = batch["inputs"]
    rest = {key: batch[key] for key in ("images", "image_sizes", "regions", "region_extra")}
    new: list[int] = []
    with torch.no_grad():
        while len(new) < steps and (not new or new[-1] != 2):
            prompt = torch.cat((ids, torch.tensor([new], dtype=torch.long)), dim=1)
            new.append(int(model(prompt, **rest).logits[0, -1].argmax()))
    return new


# Errors

FINE = Query(WIDE, "What is <region>?", [BOX])
