"""Batches of prompts with regions, as pieces, and an encoder whose features are the boxes themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import pvit_ext
from pvit_ext import Region, RegionConfig
from pvit_ext.encoders.base import RegionEncoder, RegionInputs

IMAGE, REGION, IGNORE = -200, -300, -100
SIZE = (40, 20)


@pvit_ext.register_region_encoder("test_boxes")
class BoxesAsFeatures(RegionEncoder):
    """Token t of a region is its normalised box plus t; ``layers`` makes it ask for feature maps."""

    name: ClassVar[str] = "test_boxes"
    feature_dim = 4

    def __init__(self, config: RegionConfig, tower_config: Any = None) -> None:
        super().__init__()
        self.tokens_per_region = config.encoder_options.get("tokens", 1)
        self.feature_layers = tuple(config.encoder_options.get("layers", ()))

    def forward(self, inputs: RegionInputs) -> Tensor:
        steps = torch.arange(self.tokens_per_region, device=inputs.boxes.device)
        return inputs.boxes_norm[:, None] + steps[None, :, None]


@dataclass
class Sample:
    """Pieces: a token id, "I" for an image, or a Region."""

    pieces: list[Any]

    @property
    def ids(self) -> list[int]:
        return [REGION if isinstance(p, Region) else IMAGE if p == "I" else p for p in self.pieces]

    @property
    def regions(self) -> list[Region]:
        return [piece for piece in self.pieces if isinstance(piece, Region)]


def collate(batch: list[Sample], left: bool, pad: int = 0) -> dict[str, Any]:
    """Model inputs, padded at one side, with labels that are the position, so that each is recognisable."""
    width = max(len(sample.ids) for sample in batch) + pad
    ids, mask, labels = (torch.zeros(len(batch), width, dtype=torch.long) for _ in range(3))
    labels.fill_(IGNORE)
    for row, sample in enumerate(batch):
        start = width - len(sample.ids) if left else 0
        here = slice(start, start + len(sample.ids))
        ids[row, here], mask[row, here] = torch.tensor(sample.ids), 1
        labels[row, here] = torch.tensor(
            [100 + n if isinstance(p, int) else IGNORE for n, p in enumerate(sample.pieces)]
        )
    count = sum(max(sample.pieces.count("I"), 1) for sample in batch)
    return {
        "input_ids": ids,
        "attention_mask": mask.bool(),
        "labels": labels,
        "images": torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(7)),
        "image_sizes": [SIZE] * count,
        "regions": [sample.regions or None for sample in batch],
    }


def prepare(model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """(embeds, labels, mask)."""
    inputs = {"position_ids": None, "past_key_values": None, "labels": None, "attention_mask": None, **inputs}
    _, _, mask, _, embeds, labels = model.prepare_inputs_labels_for_multimodal(**inputs)
    return embeds, labels, mask


def configure(model: Any, tokens: int = 1, **options: Any) -> None:
    """Attach the encoder above to the model, with its usual parts whatever the model has."""
    torch.manual_seed(0)
    said: dict[str, Any] = {"delimiters": True, "projector": "linear", "box_embedding": False, **options}
    pvit_ext.attach(model, RegionConfig("test_boxes", encoder_options={"tokens": tokens}, **said))


BOX = Region.box(1, 2, 10, 12)
OTHER = Region.box(20, 4, 30, 18)


def write_training_data(folder: Path) -> Path:
    """Eight records with a region each, and their images, of several sizes; returns the JSON file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for number in range(8):
        shape = (60 + 8 * (number % 3), 90, 3)
        Image.fromarray(np.random.RandomState(number).randint(0, 255, shape, dtype=np.uint8)).save(
            folder / f"{number}.png"
        )
        turns = [{"from": "human", "value": "<image>\nWhat is in <region>?"}, {"from": "gpt", "value": "seven red"}]
        records.append({"image": f"{number}.png", "regions": [[5, 5, 40, 40]], "conversations": turns})
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    return path
