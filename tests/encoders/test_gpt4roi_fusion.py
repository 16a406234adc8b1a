"""GPT4RoI's fusion against the plain one: every level resized first, every channel convolved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pvit_ext.encoders.gpt4roi.enlarged import Enlarged, resize
from pvit_ext.encoders.gpt4roi.level_fusion import LevelFusion, coordinates


def plain(fusion: LevelFusion, maps: list[Tensor]) -> list[Tensor]:
    """As the paper draws it."""
    levels = []
    for one, scale, project in zip(maps, fusion.scales, fusion.inputs, strict=True):
        projected = project(torch.cat([one, coordinates(one)], 1))
        levels.append(resize(projected, (one.shape[2] * scale, one.shape[3] * scale)))
    for fuse in fusion.rounds:
        cuts = fuse.width // 2, fuse.width // 4 * 3
        own, third, fourth = zip(*(level.tensor_split(cuts, 1) for level in levels), strict=True)
        sizes = [level.shape[-2:] for level in levels]
        above = [resize(one, size) for one, size in zip([*fourth[1:], fourth[-1]], sizes, strict=True)]
        below = [resize(one, size) for one, size in zip([third[0], *third[:-1]], sizes, strict=True)]
        mixed = [torch.cat(parts, 1) for parts in zip(own, above, below, strict=True)]
        convolved = [F.conv2d(one, fuse.conv.weight, padding=1) for one in mixed]
        gn = fuse.gn
        levels = [F.group_norm(one, gn.num_groups, gn.weight, gn.bias, gn.eps).relu() for one in convolved]
    return levels


def random_fusion(width: int, scales: tuple[int, ...], rounds: int) -> LevelFusion:
    torch.manual_seed(0)
    fusion = LevelFusion(6, width, scales, rounds).double()
    for parameter in fusion.parameters():
        torch.nn.init.normal_(parameter)  # group norm's bias and the coordinates' weights start at 0
    return fusion


@pytest.mark.parametrize("scales", [(4, 2, 1), (1, 1, 1), (1, 3), (2,)])
@pytest.mark.parametrize(("rounds", "size"), [(0, (3, 5)), (1, (3, 5)), (3, (1, 4)), (3, (5, 3))])
def test_fusion_is_the_plain_one(scales: tuple[int, ...], rounds: int, size: tuple[int, int]) -> None:
    fusion = random_fusion(96, scales, rounds)
    maps = [torch.randn(2, 6, *size, dtype=torch.float64) for _ in scales]
    ways = []
    for way in (fusion, lambda given: plain(fusion, given)):
        given = [one.clone().requires_grad_() for one in maps]
        fused = way(given)
        weights = [torch.linspace(-1, 1, one.numel(), dtype=one.dtype).view_as(one) for one in fused]
        loss = sum((one * weight).square().sum() for one, weight in zip(fused, weights, strict=True))
        ways.append((fused, torch.autograd.grad(loss, [*given, *fusion.parameters()])))
    for ours, expected in zip(*ways, strict=True):
        for one, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sizes", [[(10, 18)], [(10, 18), (20, 36), (5, 9)], [(5, 9)]])
@pytest.mark.parametrize("channels", [1, 64])
def test_a_map_is_convolved_as_if_it_were_large(channels: int, sizes: list[tuple[int, int]]) -> None:
    """Resized once or in steps, whichever form has fewer products."""
    torch.manual_seed(0)
    small, weight = torch.randn(2, channels, 5, 9), torch.randn(7, channels, 3, 3)
    lazy, large = Enlarged(small, torch.eye(5), torch.eye(9)), small
    for size in sizes:
        lazy, large = resize(lazy, size), resize(large, size)
    assert lazy.shape == large.shape
    torch.testing.assert_close(lazy.full_map(), large, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lazy.convolve(weight), F.conv2d(large, weight, padding=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("width", "scales", "most"), [(256, (8, 4, 2, 1), 0.71), (8, (8, 4, 2, 1), 0.93), (64, (1, 1, 1), 0.96)]
)
def test_fusion_never_counts_more_than_the_plain_one(width: int, scales: tuple[int, ...], most: float) -> None:
    fusion, maps = LevelFusion(6, width, scales, rounds=5), [torch.randn(1, 6, 6, 6) for _ in scales]
    counts = []
    for way in (fusion, lambda given: plain(fusion, given)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            way(maps)
        counts.append(counter.get_total_flops())
    assert counts[0] < most * counts[1]


def test_half_precision_is_spread_in_float32() -> None:
    torch.manual_seed(0)
    fusion = LevelFusion(6, 64, (8, 4, 2, 1), 1)
    maps = [torch.randn(1, 6, 6, 6) for _ in range(4)]
    with torch.no_grad():
        expected = fusion(maps)
        fused = fusion.bfloat16()([one.bfloat16() for one in maps])
        large = plain(fusion, [one.bfloat16() for one in maps])
    for one, other, exact in zip(fused, large, expected, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one - exact).abs().mean() < 1.2 * (other - exact).abs().mean()
