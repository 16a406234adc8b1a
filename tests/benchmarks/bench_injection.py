"""Region tokens into a batch of prompts, forward and backward: ours against a loop per region and masked_scatter.

Run ``python -m tests.benchmarks.bench_injection`` from the repository's root; needs about 3 GB at the full size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pvit_ext.hosts.llava.splice import inject_region_tokens, mark_regions
from pvit_ext.prompt import REGION_TOKEN_INDEX
from tests.benchmarks.harness import arguments, compare, write

POSITIONS = 3
"""Per region: start delimiter, feature, end delimiter."""


def prompts(batch: int, length: int, regions: int) -> Tensor:
    """Ids (B, L') with evenly spread regions, which become (B, length) positions."""
    short = length - regions * (POSITIONS - 1)
    ids = torch.full((batch, short), 5)
    ids[:, torch.linspace(length // 4, short - 2, regions).long()] = REGION_TOKEN_INDEX
    return ids


def by_loop(ids: Tensor, embeds: Tensor, tokens: Tensor) -> Tensor:
    """As PVIT does: each region cuts its sample apart and concatenates it anew."""
    spliced, number = [], 0
    for sample in range(len(ids)):
        one = embeds[sample]
        for index, position in enumerate((ids[sample] == REGION_TOKEN_INDEX).nonzero().flatten().tolist()):
            start = position + index * (POSITIONS - 1)
            one = torch.cat((one[:start], tokens[number], one[start + POSITIONS :]))
            number += 1
        spliced.append(one)
    return torch.stack(spliced)


def by_masked_scatter(ids: Tensor, embeds: Tensor, tokens: Tensor) -> Tensor:
    """As transformers' models do."""
    marked = mark_regions(ids, None, None, POSITIONS).labels
    mask = (marked <= -10000)[..., None].expand_as(embeds)
    return embeds.masked_scatter(mask, tokens)


def by_marks(ids: Tensor, embeds: Tensor, tokens: Tensor) -> Tensor:
    """Ours."""
    marked = mark_regions(ids, None, None, POSITIONS).labels
    return inject_region_tokens(embeds, marked, tokens, ["region"] * len(tokens))[0]


def case(batch: int, length: int, width: int, regions: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """Time the three forms on one shape, after checking that their outputs and gradients are equal."""
    torch.manual_seed(0)
    ids = prompts(batch, length, regions).to(device)
    embeds = torch.randn(batch, length, width, device=device, requires_grad=True)
    tokens = torch.randn(batch * regions, POSITIONS, width, device=device, requires_grad=True)
    gradient = torch.randn(batch, length, width, device=device)

    def step(form: Callable[[Tensor, Tensor, Tensor], Tensor]) -> tuple[Tensor, ...]:
        out = form(ids, embeds, tokens)
        return (out.detach(), *torch.autograd.grad(out, (embeds, tokens), gradient))

    forms = {"loop per region": by_loop, "masked_scatter": by_masked_scatter, "marks + index_put": by_marks}
    expected = step(by_loop)
    for form in (by_masked_scatter, by_marks):
        assert all(torch.equal(a, b) for a, b in zip(step(form), expected, strict=True))
    del expected
    name = f"batch {batch}, length {length}, width {width}, {regions} regions a sample"
    return compare(name, {name: lambda form=form: step(form) for name, form in forms.items()}, rounds, dtype="float32")


def main() -> None:
    """Write ``results/injection.csv``."""
    options = arguments(__doc__, rounds=5).parse_args()
    shapes = [(8, 2048, 4096, 1), (8, 2048, 4096, 4), (1, 1024, 4096, 4)]
    rows = (row for shape in shapes for row in case(*shape, options.rounds, options.device))
    write("injection", rows, options.device, options.to)


if __name__ == "__main__":
    main()
