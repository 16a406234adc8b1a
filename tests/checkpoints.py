"""Helpers of the checkpoint and loading tests: tiny models with recognisable region tensors, and their logits."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pvit_ext
from pvit_ext import Region, RegionConfig
from tests.tiny import TINY_REGIONCLIP

BOX = Region.box(2, 3, 20, 15)
OPTIONS = {**TINY_REGIONCLIP, "shortest_edge": 32, "longest_edge": 64}


def config(**values: Any) -> RegionConfig:
    return RegionConfig(**{"encoder_options": dict(OPTIONS), "box_embedding": True, **values})


def load(path: Path | str, **kwargs: Any) -> Any:
    return pvit_ext.load_pretrained_model(str(path), device="cpu", **kwargs)[1]


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    source = Path(model.config._name_or_path)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    return folder


def randomize(model: Any, seed: int = 5) -> Any:
    """Every region tensor gets values that no initialisation gives."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.get_model().region_projector.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter)
    return model


def inputs(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 255, (3, 32, 48), generator=generator, dtype=torch.uint8)
    return {
        "input_ids": torch.tensor([[1, 5, -200, 9, -300, 30]]),
        "images": torch.randn(1, 3, 28, 28, generator=generator).to(dtype),
        "image_sizes": [(30, 20)],
        "regions": [[BOX]],
        "region_extra": [{"pixels": pixels}],
    }


def logits(model: Any) -> Tensor:
    for parameter in model.parameters():
        # safetensors maps files: the same values at another offset take another kernel of MKL (measured, 9e-8 apart)
        parameter.data = parameter.data.clone()
    with torch.no_grad():
        return model(**inputs(model.lm_head.weight.dtype)).logits
