"""RegionCLIP's tower, attention pool and whole encoder against the straightforward formulation, at equal output.

Run ``python -m tests.benchmarks.bench_regionclip`` from the repository's root; writes ``results/regionclip.csv``.
"""

from __future__ import annotations

import copy
import tempfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pvit_ext.encoders.regionclip.clip_resnet import STRIDE
from pvit_ext.encoders.regionclip.encoder import ARCHITECTURES, RegionCLIP
from tests.benchmarks.bench_roi_align import some_boxes
from tests.benchmarks.harness import arguments, compare, write
from tests.benchmarks.roi_align_forms import dense
from tests.benchmarks.straightforward_clip import StraightforwardCLIPResNet, randomize_batch_norms

TOWER_FIELDS = ("layers", "width", "heads", "output_dim", "pool")


def pair(arch: str) -> tuple[StraightforwardCLIPResNet, RegionCLIP]:
    """The same random weights in both formulations."""
    options = ARCHITECTURES[arch]
    assert set(TOWER_FIELDS) <= {item.name for item in fields(options)}
    torch.manual_seed(0)
    plain = StraightforwardCLIPResNet(**{key: asdict(options)[key] for key in TOWER_FIELDS})
    randomize_batch_norms(plain)
    encoder = RegionCLIP(options)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(plain.state_dict(), Path(folder) / "weights.pth")
        encoder.load_weights(str(Path(folder) / "weights.pth"))
    return plain, encoder


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


def trunk(plain: StraightforwardCLIPResNet, encoder: RegionCLIP, pixels: Tensor, rounds: int) -> list[dict[str, Any]]:
    """res4 of one image: float32 and bfloat16."""
    half = copy.deepcopy(encoder).to(torch.bfloat16)
    forms = {
        "straightforward float32": lambda: plain.trunk(pixels),
        "straightforward bf16 autocast": lambda: under_autocast(plain, pixels),
        "ours float32": lambda: encoder.backbone.trunk(pixels),
        "ours bfloat16": lambda: half.backbone.trunk(pixels.bfloat16()),
    }
    return compared("trunk", forms, rounds, size="x".join(map(str, pixels.shape[2:])))


def under_autocast(module: StraightforwardCLIPResNet, pixels: Tensor) -> Tensor:
    with torch.autocast(pixels.device.type, torch.bfloat16):
        return module.trunk(pixels)


def pool(plain: StraightforwardCLIPResNet, encoder: RegionCLIP, regions: int, rounds: int) -> list[dict[str, Any]]:
    """The attention pool alone."""
    side = encoder.options.pool // 2
    grid = torch.randn(regions, encoder.options.width * 32, side, side, device=encoder.backbone.conv1.weight.device)
    grid, last = grid.relu(), grid.relu().contiguous(memory_format=torch.channels_last)
    later = copy.deepcopy(plain.attnpool)
    later.one_query = True
    forms = {
        "all tokens ask": lambda: plain.attnpool(grid),
        "one token asks": lambda: later(grid),
        "one query through Wk and Wv": lambda: encoder.backbone.attnpool(last),
    }
    return compared("attention pool", forms, rounds, regions=regions)


def full_encoder(
    plain: StraightforwardCLIPResNet, encoder: RegionCLIP, pixels: Tensor, regions: int, rounds: int
) -> list[dict[str, Any]]:
    """One image and its regions, from normalised pixels to features."""
    boxes = some_boxes(regions, pixels.shape[3], pixels.shape[2]).to(pixels.device)
    index = torch.zeros(regions, dtype=torch.int64, device=pixels.device)
    half = copy.deepcopy(encoder).to(torch.bfloat16)
    size = encoder.options.pool
    forms = {
        "straightforward float32": lambda: plain.head(dense(plain.trunk(pixels), boxes, index, size, 1 / STRIDE)),
        "ours float32": lambda: encoder.encode(pixels, boxes, index),
        "ours bfloat16": lambda: half.encode(pixels, boxes, index),
    }
    return compared("whole encoder", forms, rounds, size="x".join(map(str, pixels.shape[2:])), regions=regions)


def compared(case: str, forms: dict[str, Any], rounds: int, **facts: Any) -> list[dict[str, Any]]:
    """Times, and the relative difference of every form from the first."""
    outputs = {name: form() for name, form in forms.items()}
    reference = next(iter(outputs.values()))
    rows = compare(case, forms, rounds, **facts)
    return [row | {"relative_difference": f"{relative(outputs[row['form']], reference):.1e}"} for row in rows]


def main() -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--arch", default="rn50x4", choices=list(ARCHITECTURES))
    parser.add_argument("--only", default="", help="run only the cases whose name contains this")
    options = parser.parse_args()
    plain, encoder = pair(options.arch)
    models: list[nn.Module] = [plain.to(options.device), encoder.to(options.device)]
    assert not any(parameter.requires_grad for model in models for parameter in model.parameters())
    pixels = torch.randn(1, 3, 800, 1333, device=options.device)
    cases = {
        "trunk": lambda: trunk(plain, encoder, pixels, options.rounds),
        "pool8": lambda: pool(plain, encoder, 8, 3 * options.rounds),
        "pool32": lambda: pool(plain, encoder, 32, 3 * options.rounds),
        "whole": lambda: full_encoder(plain, encoder, pixels, 8, options.rounds),
    }
    with torch.no_grad():
        rows = (row for name, case in cases.items() if options.only in name for row in case())
        write("regionclip", rows, options.device, options.to)


if __name__ == "__main__":
    main()
