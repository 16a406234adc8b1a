"""GPT4RoI's full variant, its pooled head and its light variant on a CLIP-L's maps: time, parameters. Not equal output.

Run ``python -m tests.benchmarks.bench_gpt4roi`` from the repository's root; writes ``results/gpt4roi.csv``.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch

from pvit_ext.config import RegionConfig
from pvit_ext.encoders.gpt4roi.encoder import build
from tests.benchmarks.harness import arguments, compare, write

TOWER = SimpleNamespace(hidden_size=1024, num_hidden_layers=24, patch_size=14)
GRID = 16
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, pooled head": {"head": "pooled"},
    "light": {"variant": "light"},
}


def build_all(device: str) -> dict[str, Any]:
    """The variants, with random weights; 0.8 billion parameters together."""
    config = {name: RegionConfig("gpt4roi", encoder_options=options) for name, options in VARIANTS.items()}
    return {name: build(one, TOWER).to(device) for name, one in config.items()}


def bench(encoders: dict[str, Any], regions: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """All variants on the same maps and boxes, without gradients."""
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(1, TOWER.hidden_size, GRID, GRID, generator=generator).to(device) for _ in range(4)]
    corner, extent = torch.rand(2, regions, 2, generator=generator).to(device)
    norm = torch.cat([corner / 2, corner / 2 + 0.05 + extent * 0.45], 1)
    index = torch.zeros(regions, dtype=torch.int64, device=device)
    boxes = norm * GRID * TOWER.patch_size
    forms = {name: partial(encoder.encode, maps, boxes, norm, index) for name, encoder in encoders.items()}
    facts = {"regions": regions, "map": f"{GRID}x{GRID}", "dtype": "float32"}
    rows = compare("forward", forms, rounds, **facts)
    parameters = {name: sum(one.numel() for one in encoder.parameters()) for name, encoder in encoders.items()}
    return [row | {"parameters": parameters[row["form"]]} for row in rows]


def main() -> None:
    options = arguments(__doc__, rounds=3).parse_args()
    with torch.no_grad():
        encoders = build_all(options.device)
        rows = (row for regions in (1, 8) for row in bench(encoders, regions, options.rounds, options.device))
        write("gpt4roi", rows, options.device, options.to)


if __name__ == "__main__":
    main()
