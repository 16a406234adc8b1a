"""RoIAlign, forward and backward: weighted row gather against dense matrices and, if importable, torchvision's op.

Run ``python -m tests.benchmarks.bench_roi_align`` from the repository's root; writes ``results/roi_align.csv``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from pvit_ext.ops.roi_align import roi_align
from tests.benchmarks.harness import arguments, compare, write
from tests.benchmarks.roi_align_forms import dense

CHANNELS, HEIGHT, WIDTH, POOL, STRIDE = 1280, 50, 83, 18, 16  # RN50x4 on an 800x1333 image


def some_boxes(count: int, width: int, height: int) -> Tensor:
    """Boxes of 5 to 55 % of each side, clipped to the image."""
    generator = torch.Generator().manual_seed(1)
    center, size = torch.rand(count, 2, generator=generator), 0.05 + 0.5 * torch.rand(count, 2, generator=generator)
    corners = torch.cat([center - size / 2, center + size / 2], 1).clamp(0, 1)
    return corners * torch.tensor([width, height, width, height])


def forms(boxes: Tensor, index: Tensor) -> dict[str, tuple[Callable[[Tensor], Tensor], torch.memory_format]]:
    """Each form with the memory format it likes best."""
    table: dict[str, tuple[Callable[[Tensor], Tensor], torch.memory_format]] = {
        "dense": (lambda x: dense(x, boxes, index, POOL, 1 / STRIDE), torch.contiguous_format),
        "row gather": (lambda x: roi_align(x, boxes, index, POOL, 1 / STRIDE), torch.channels_last),
    }
    try:
        from torchvision.ops import roi_align as compiled
    except ImportError:
        return table
    rois = torch.cat([index[:, None].to(boxes), boxes], 1)
    table["torchvision"] = (lambda x: compiled(x, rois, POOL, 1 / STRIDE, 0, True), torch.contiguous_format)
    return table


def bench(regions: int, rounds: int, device: str) -> Iterator[dict[str, Any]]:
    """Forward and backward of every form on the same map and boxes."""
    boxes = some_boxes(regions, WIDTH * STRIDE, HEIGHT * STRIDE).to(device)
    index = torch.zeros(regions, dtype=torch.int64, device=device)
    torch.manual_seed(0)
    plain, cotangent = (
        torch.randn(1, CHANNELS, HEIGHT, WIDTH, device=device),
        torch.randn(regions, CHANNELS, POOL, POOL),
    )
    cotangent, forward, backward, results = cotangent.to(device), {}, {}, {}
    for name, (form, layout) in forms(boxes, index).items():
        x = plain.clone(memory_format=torch.contiguous_format).contiguous(memory_format=layout).requires_grad_()
        out, grad = form(x), cotangent.contiguous(memory_format=layout)
        frozen = x.detach()
        forward[name] = lambda form=form, frozen=frozen: form(frozen)
        backward[name] = lambda out=out, x=x, grad=grad: torch.autograd.grad(out, x, grad, retain_graph=True)[0]
        results[name] = (out.detach(), backward[name]())
    facts = {"regions": regions, "channels": CHANNELS, "map": f"{HEIGHT}x{WIDTH}", "output": POOL, "dtype": "float32"}
    for number, (case, timed) in enumerate({"forward": forward, "backward": backward}.items()):
        for row in compare(case, timed, rounds, **facts):
            own, reference = results[row["form"]][number], results["dense"][number]
            yield row | {"relative_difference": f"{float((own - reference).norm() / reference.norm()):.1e}"}


def main() -> None:
    options = arguments(__doc__, rounds=15).parse_args()
    rows = (row for regions in (8, 32) for row in bench(regions, options.rounds, options.device))
    write("roi_align", rows, options.device, options.to)


if __name__ == "__main__":
    main()
