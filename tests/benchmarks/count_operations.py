"""Operations of a forward pass of LLaVA-1.5-7B, and of each region encoder on its CLIP tower's maps: what regions add.

They are counted by torch, not timed: no machine is needed on which the language model dominates a step. Run
``python -m tests.benchmarks.count_operations`` from the repository's root; writes ``results/operations.csv``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from pvit_ext import build_region_encoder
from pvit_ext.config import RegionConfig
from pvit_ext.encoders.base import RegionInputs
from pvit_ext.regions.region import Region
from pvit_ext.regions.view import View
from tests.benchmarks.harness import RESULTS, save

SIDE, PATCH, TEXT, WIDTH = 336, 14, 128, 4096
GRID = SIDE // PATCH
TOWER = CLIPVisionConfig(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=SIDE,
    patch_size=PATCH,
)  # fmt: skip
LANGUAGE_MODEL = LlamaConfig(hidden_size=WIDTH, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32)
ENCODERS = {
    **{name: RegionConfig(name) for name in ("osprey", "ferret", "cross_attention", "replay", "gpt4roi")},
    "gpt4roi light": RegionConfig("gpt4roi", encoder_options={"variant": "light"}),
}
"""Those without a pass of a tower of their own."""


def count(call: Callable[[], Any]) -> int:
    """Floating point operations of a call, as torch counts them: matrix products, convolutions and attention."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        call()
    return int(counter.get_total_flops())


def of_model() -> int:
    """Of the vision tower on one image, and of the language model on its tokens and some text."""
    with torch.device("meta"):
        language_model, tower = LlamaForCausalLM(LANGUAGE_MODEL), CLIPVisionModel(TOWER)
        prompt, pixels = torch.empty(1, GRID**2 + TEXT, WIDTH), torch.empty(1, 3, SIDE, SIDE)
    return count(partial(language_model, inputs_embeds=prompt)) + count(partial(tower, pixels))


def of_encoder(config: RegionConfig) -> int:
    """Of a region encoder, on one image with two boxes."""
    encoder = build_region_encoder(config, TOWER).eval()
    size = (SIDE, SIDE)
    inputs = RegionInputs(
        regions=[box.resolve(size) for box in (Region.box(40, 40, 200, 150), Region.box(10, 200, 90, 300))],
        image_index=torch.zeros(2, dtype=torch.int64),
        image_sizes=[size],
        feature_maps=[torch.randn(1, TOWER.hidden_size, GRID, GRID) for _ in encoder.feature_layers],
        views=[View.resize(size, size)],
    )
    return count(partial(encoder, inputs))


def rows() -> Iterator[dict[str, Any]]:
    """One for each encoder."""
    model = of_model()
    for name, config in ENCODERS.items():
        own = of_encoder(config)
        ratio = round((model + own) / model, 3)
        counted = {"model_tflop": round(model / 1e12, 3), "encoder_tflop": round(own / 1e12, 3), "ratio": ratio}
        yield {"encoder": name, "positions": GRID**2 + TEXT, **counted, "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=RESULTS, metavar="FOLDER", help="for results, default %(default)s")
    folder, counted = parser.parse_args().to, list(rows())
    for row in counted:
        print(row)
    save(folder / "operations.csv", counted)


if __name__ == "__main__":
    main()
