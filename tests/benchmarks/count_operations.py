"""Operations of a training step of released LLaVA models, and of each region encoder beside it: what regions add.

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
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from pvit_ext import build_region_encoder
from pvit_ext.config import RegionConfig
from pvit_ext.encoders.base import RegionInputs
from pvit_ext.regions.region import Region
from pvit_ext.regions.view import View
from tests.benchmarks.harness import RESULTS, save

SIDE, PATCH, TEXT = 336, 14, 128
GRID = SIDE // PATCH
TILES = 4
"""Of an image of 672x672 in LLaVA-1.6, beside the whole image; each row of their tokens ends in a learned one."""
TOWER = CLIPVisionConfig(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=SIDE,
    patch_size=PATCH,
)  # fmt: skip
VICUNA_7B = LlamaConfig(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32)
VICUNA_13B = LlamaConfig(hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40)
YI_34B = LlamaConfig(
    hidden_size=7168, intermediate_size=20480, num_hidden_layers=60, num_attention_heads=56, num_key_value_heads=8
)
MODELS = {
    "LLaVA-1.5-7B": (VICUNA_7B, 0),
    "LLaVA-1.5-13B": (VICUNA_13B, 0),
    "LLaVA-1.6-7B": (VICUNA_7B, TILES),
    "LLaVA-1.6-13B": (VICUNA_13B, TILES),
    "LLaVA-1.6-34B": (YI_34B, TILES),
}
"""Language models by the released checkpoint, and how many tiles of an image they read beside the whole."""
ENCODERS = {
    **{name: RegionConfig(name) for name in ("osprey", "ferret", "cross_attention", "replay", "gpt4roi")},
    "gpt4roi light": RegionConfig("gpt4roi", encoder_options={"variant": "light"}),
}
"""Those without a pass of a tower of their own."""


def count(call: Callable[[], Tensor]) -> int:
    """Floating point operations of a call and of its backward pass, where its result has one.

    As torch counts them: matrix products, convolutions and attention.
    """
    counter = FlopCounterMode(display=False)
    with counter:
        if (result := call()).requires_grad:
            result.sum().backward()
    return int(counter.get_total_flops())


def positions_of(tiles: int) -> int:
    """What an image takes with its tiles, and some text."""
    side = 2 * GRID
    return GRID**2 + TEXT + (side * (side + 1) if tiles else 0)


def of_model(config: LlamaConfig, tiles: int, is_trained: bool) -> int:
    """A step of a language model on an image's tokens and some text; the vision tower is frozen and runs on each tile.

    Args:
        config: of the language model.
        tiles: beside the whole image.
        is_trained: stage 2, all of its weights; else stage 1: gradients pass it on their way to the region tokens.
    """
    with torch.device("meta"):
        language_model = LlamaForCausalLM(config).requires_grad_(is_trained)
        tower = CLIPVisionModel(TOWER).requires_grad_(False)
        prompt = torch.empty(1, positions_of(tiles), config.hidden_size, requires_grad=True)
        pixels = torch.empty(1 + tiles, 3, SIDE, SIDE)
    step = count(lambda: language_model(inputs_embeds=prompt).logits)
    return step + count(lambda: tower(pixels).last_hidden_state)


def of_encoder(config: RegionConfig) -> int:
    """A step of a region encoder that trains, on one image with two boxes."""
    encoder = build_region_encoder(config, TOWER).train()
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
    """One for each encoder, model and stage."""
    encoders = {name: of_encoder(config) for name, config in ENCODERS.items()}
    for model, (config, tiles) in MODELS.items():
        for stage in (1, 2):
            own = of_model(config, tiles, is_trained=stage == 2)
            for name, more in encoders.items():
                counted = {"model_tflop": round(own / 1e12, 3), "encoder_tflop": round(more / 1e12, 3)}
                row = {"encoder": name, "model": model, "stage": stage, "positions": positions_of(tiles), **counted}
                yield {**row, "ratio": round((own + more) / own, 3), "torch": torch.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--to", type=Path, default=RESULTS, metavar="FOLDER", help="for results, default %(default)s")
    folder, counted = parser.parse_args().to, []
    for row in rows():
        print(row, flush=True)
        counted.append(row)
    save(folder / "operations.csv", counted)


if __name__ == "__main__":
    main()
