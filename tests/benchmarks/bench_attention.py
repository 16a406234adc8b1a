"""Regions attend to the patches they cover: ragged attention against masks over every patch, padding, and a loop.

Two series: regions of growing size on one map, and regions of one size on growing maps. Every form starts from the
image's keys and values; the ragged ones gather covered rows within the time measured. Run
``python -m tests.benchmarks.bench_attention`` from the repository's root; writes ``results/attention.csv``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pvit_ext.ops.varlen_attention import Environment, environment, varlen_cross_attention
from tests.benchmarks.harness import arguments, compare, write

TOKENS, HEADS, HEAD_DIM = 4, 8, 64


def some_regions(count: int, grid: int, side: int) -> list[Tensor]:
    """Cells of ``count`` boxes on a grid x grid map, each side between half and one and a half times ``side`` cells."""
    generator = torch.Generator().manual_seed(1)
    spans = (side * (0.5 + torch.rand(count, 2, generator=generator))).round().long().clamp(1, grid)
    starts = (torch.rand(count, 2, generator=generator) * (grid - spans + 1)).long()
    cells = torch.arange(grid)
    return [
        (cells[y : y + h, None] * grid + cells[x : x + w]).flatten()
        for (y, x), (h, w) in zip(starts.tolist(), spans.tolist(), strict=True)
    ]


def forms(q: Tensor, k: Tensor, v: Tensor, regions: list[Tensor]) -> dict[str, Callable[[], Tensor]]:
    """Attention's result (M * T, H, D) in several ways, from q (M * T, H, D) and k, v (P, H, D) of one image."""
    count, patches, device = len(regions), len(k), q.device
    lengths = torch.tensor([len(region) for region in regions])
    rows = torch.cat(regions).to(device)
    bounds = torch.arange(count + 1) * TOKENS, F.pad(lengths.cumsum(0), (1, 0))
    covered = torch.zeros(count, patches, dtype=torch.bool)
    for row, region in zip(covered, regions, strict=True):
        row[region] = True
    covered = covered.to(device)
    padded = torch.nn.utils.rnn.pad_sequence(regions, batch_first=True).to(device)  # (M, longest)
    inside = (torch.arange(padded.shape[1]) < lengths[:, None]).to(device)

    def masked(keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        heads = q.unflatten(0, (count, TOKENS)).transpose(1, 2)  # (M, H, T, D)
        out = F.scaled_dot_product_attention(heads, keys, values, attn_mask=mask[:, None, None])
        return out.transpose(1, 2).flatten(0, 1)

    def every_patch() -> Tensor:
        keys, values = (x.transpose(0, 1).expand(count, -1, -1, -1) for x in (k, v))
        return masked(keys, values, covered)

    def padding() -> Tensor:
        return masked(k[padded].transpose(1, 2), v[padded].transpose(1, 2), inside)

    def ragged(backend: str) -> Tensor:
        return varlen_cross_attention(q, k.index_select(0, rows), v.index_select(0, rows), *bounds, backend)

    table = {
        "every patch, masked": every_patch,
        "padded to the longest, masked": padding,
        "ragged, loop": lambda: ragged("eager"),
        "ragged, sdpa": lambda: ragged("sdpa"),
    }
    found: Environment = environment(device)
    if q.dtype == torch.bfloat16 and any(not problem for _, problem in found.problems):
        table["ragged, flash"] = lambda: ragged("flash")
    return table


def bench(case: str, count: int, grid: int, side: int, rounds: int, device: str) -> Iterator[dict[str, Any]]:
    """Forward and backward of every form."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    q, k, v = (
        torch.randn(n, HEADS, HEAD_DIM, device=device, dtype=dtype, requires_grad=True)
        for n in (count * TOKENS, grid**2, grid**2)
    )
    regions = some_regions(count, grid, side)
    timed = forms(q, k, v, regions)
    results = {name: form() for name, form in timed.items()}
    reference = results["ragged, loop"].detach().double()
    cotangent = torch.randn_like(q)
    forward = {name: torch.no_grad()(form) for name, form in timed.items()}
    backward = {
        name: lambda out=out: torch.autograd.grad(out, (q, k, v), cotangent, retain_graph=True)
        for name, out in results.items()
    }
    total = sum(map(len, regions))
    facts = {"regions": count, "patches": grid**2, "covered": total, "pairs": count * grid**2, "dtype": str(dtype)[6:]}
    for direction, table in (("forward", forward), ("backward", backward)):
        for row in compare(f"{case}, {total} of {count * grid**2} pairs, {direction}", table, rounds, **facts):
            difference = (results[row["form"]].detach().double() - reference).norm() / reference.norm()
            yield row | {"relative_difference": f"{float(difference):.1e}"}


def main() -> None:
    options = arguments(__doc__, rounds=9).parse_args()
    cases = [("growing regions", 64, 24, side) for side in (1, 2, 4, 8, 16)]
    cases += [("growing map", 64, grid, 4) for grid in (24, 48, 96)] + [("many regions", 500, 24, 4)]
    rows = (row for case in cases for row in bench(*case, options.rounds, options.device))
    write("attention", rows, options.device, options.to)


if __name__ == "__main__":
    main()
