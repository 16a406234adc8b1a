"""Ferret's sampler on a CLIP-L's 24x24 map: projections per point against projections per neighbour, equal output.

Run ``python -m tests.benchmarks.bench_ferret`` from the repository's root; writes ``results/ferret.csv``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pvit_ext.config import RegionConfig
from pvit_ext.encoders.ferret.encoder import Ferret, build
from tests.benchmarks.harness import arguments, compare, write
from tests.benchmarks.straightforward_ferret import encode

TOWER = SimpleNamespace(hidden_size=1024, num_hidden_layers=24, patch_size=14)
GRID = 24


def forward_backward(form: Any, encoder: Ferret, cotangent: Tensor) -> Tensor:
    """The gradients of all of the encoder's parameters, flattened."""
    grads = torch.autograd.grad(form(), list(encoder.parameters()), cotangent)
    return torch.cat([grad.flatten() for grad in grads])


def bench(encoder: Ferret, regions: int, rounds: int, device: str) -> Iterator[dict[str, Any]]:
    """Forward without gradients, then forward and backward, of both forms."""
    generator = torch.Generator().manual_seed(1)
    feature_map = torch.randn(1, TOWER.hidden_size, GRID, GRID, generator=generator).to(device)
    corner, extent = torch.rand(2, regions, 1, 2, generator=generator)
    points = (corner / 2 + extent / 2 * torch.rand(regions, 512, 2, generator=generator)) * GRID * TOWER.patch_size
    sizes = torch.full((1, 2), float(GRID * TOWER.patch_size), device=device)
    index = torch.zeros(regions, dtype=torch.int64, device=device)
    given = (feature_map.contiguous(memory_format=torch.channels_last), points.to(device), sizes, index)
    forms = {"per neighbour": partial(encode, encoder, *given), "per point": partial(encoder.encode, *given)}
    facts = {"regions": regions, "width": TOWER.hidden_size, "map": f"{GRID}x{GRID}", "dtype": "float32"}
    cotangent = torch.randn(regions, 1, TOWER.hidden_size, generator=generator).to(device)
    trained = {name: partial(forward_backward, form, encoder, cotangent) for name, form in forms.items()}
    for case, timed in {"forward": forms, "forward and backward": trained}.items():
        with torch.set_grad_enabled(case != "forward"):
            results = {name: form().detach() for name, form in timed.items()}
            measured = compare(case, timed, rounds, **facts)
        reference = results["per neighbour"]
        for row in measured:
            difference = float((results[row["form"]] - reference).norm() / reference.norm())
            yield row | {"relative_difference": f"{difference:.1e}"}


def main() -> None:
    parser = arguments(__doc__, rounds=7)
    parser.add_argument("--regions", type=int, nargs="+", default=[1, 8])
    options = parser.parse_args()
    torch.manual_seed(0)
    encoder = build(RegionConfig("ferret"), TOWER).to(options.device)
    rows = (row for regions in options.regions for row in bench(encoder, regions, options.rounds, options.device))
    write("ferret", rows, options.device, options.to)


if __name__ == "__main__":
    main()
