"""Helpers of the checkpoint and loading tests: tiny models with recognisable region tensors, and their logits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import pvit_ext
from pvit_ext import Region, RegionConfig
from pvit_ext.tools.shards import open_checkpoint
from tests.tiny import TINY_REGIONCLIP

BOX = Region.box(2, 3, 20, 15)
TOWER = "vision_tower.vision_tower."
OPTIONS = {**TINY_REGIONCLIP, "shortest_edge": 32, "longest_edge": 64}


def config(**values: Any) -> RegionConfig:
    return RegionConfig(**{"encoder_options": dict(OPTIONS), "box_embedding": True, **values})


def load(path: Path | str, **kwargs: Any) -> Any:
    return pvit_ext.load_pretrained_model(str(path), device="cpu", **kwargs)[1]


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    source = Path(model.config._name_or_path)
    for path in source.glob("tokenizer*"):
        shutil.copy(path, folder)
    return folder


def relayout(
    source: Path, folder: Path, suffix: str, count: int, dtype: torch.dtype | None = None, filler: int = 0
) -> Path:
    """A copy of a checkpoint as one file or several, ``.safetensors`` or ``.bin``, with tensors dealt out in turn.

    Each file gets ``filler`` bytes more, in tensors that no model has.
    """
    checkpoint = open_checkpoint(source)
    folder.mkdir()
    for path in (*checkpoint.other_files(), source / "config.json"):
        shutil.copy(path, folder)
    tensors = {name: value.to(dtype or value.dtype) for name, value in checkpoint.read(checkpoint.tensors)}
    stem, files = {".safetensors": "model", ".bin": "pytorch_model"}[suffix], {}
    for number in range(count):
        name = stem + (f"-{number + 1:05}-of-{count:05}" if count > 1 else "") + suffix
        part = {key: tensors[key] for key in sorted(tensors)[number::count]}
        part |= {f"filler.{number}.{piece}": torch.zeros(filler // 32) for piece in range(8) if filler}
        files |= dict.fromkeys(part, name)
        save_file(part, folder / name, {"format": "pt"}) if suffix == ".safetensors" else torch.save(
            part, folder / name
        )
    if count > 1:
        (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder


def unfreeze_tower(source: Path, folder: Path, level: str = "vision_model.") -> Path:
    """A copy of a LLaVA checkpoint in LLaVA-1.6's form: it holds a vision tower that differs from the tower's own file.

    Args:
        source: a checkpoint of tests/tiny.py, in one safetensors file.
        folder: made.
        level: of the tower's names; LLaVA-1.6 was saved by transformers 4, transformers 5 has it no more.
    """
    shutil.copytree(source, folder)
    values = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"unfreeze_mm_vision_tower": True}))
    generator = torch.Generator().manual_seed(9)
    tower = load_file(Path(values["mm_vision_tower"], "model.safetensors"))
    tensors = {key: value for key, value in load_file(source / "model.safetensors").items() if TOWER not in key}
    for key, value in tower.items():
        name = f"model.{TOWER}{level}{key.removeprefix('vision_model.')}"
        tensors[name] = torch.randn(value.shape, generator=generator) * 0.1
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def tower_tensors(folder: Path) -> dict[str, Tensor]:
    """The vision tower's tensors in a checkpoint, by their names in today's transformers."""
    found = load_file(folder / "model.safetensors").items()
    parts = {key.partition(TOWER)[2].removeprefix("vision_model."): value for key, value in found if TOWER in key}
    assert len(parts) > 50
    return parts


def randomize(model: Any, seed: int = 5) -> Any:
    """Every region tensor gets values that no initialisation gives."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.region_module.region_projector.parameters():
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
