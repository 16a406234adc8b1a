"""Region queries attend to the patches a region touches and to no other; gated layers start as the identity."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from pvit_ext import Region, RegionConfig, RegionError
from pvit_ext.encoders.coverage import covered_cells
from pvit_ext.encoders.cross_attention import CrossAttention, build
from pvit_ext.ops import cross_attention as cross_layers_module
from tests.encoders.grid import GRID, HIDDEN, KINDS, PATCH, SIDE, SIZES, TOWER, VIEWS, inputs_of, random_maps
from tests.tower_inputs import as_kind

# Fractions of the middle square, which a centre crop keeps.
LAYOUT = [(0.05, 0.05, 0.35, 0.25), (0.6, 0.1, 0.95, 0.45), (0.1, 0.5, 0.3, 0.95), (0.55, 0.6, 0.8, 0.9)]
Box = tuple[int, int, int, int]


def make(**options: Any) -> CrossAttention:
    torch.manual_seed(0)
    return build(RegionConfig("cross_attention", encoder_options={"heads": 2, "head_dim": 8, **options}), TOWER)


def look(kind: str, image: Image.Image) -> Image.Image:
    """The tower's pixels, made with Pillow alone."""
    width, height = image.size
    if kind == "square":
        return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    if kind == "crop":
        short = min(image.size)
        image = image.resize((width * SIDE // short, height * SIDE // short), Image.Resampling.BILINEAR)
        left, top = (image.width - SIDE) // 2, (image.height - SIDE) // 2
        return image.crop((left, top, left + SIDE, top + SIDE))
    padded = Image.new("L", (max(image.size),) * 2)
    padded.paste(image, ((max(image.size) - width) // 2, (max(image.size) - height) // 2))
    return padded.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def brightness_map(kind: str, size: tuple[int, int], bright: Box) -> Tensor:
    """(1, HIDDEN, GRID, GRID), channel 0 the mean brightness 0..1 of a patch."""
    pixels = np.zeros((size[1], size[0]), dtype=np.uint8)
    pixels[bright[1] : bright[3], bright[0] : bright[2]] = 255
    seen = torch.from_numpy(np.array(look(kind, Image.fromarray(pixels)))).float() / 255
    maps = torch.zeros(1, HIDDEN, GRID, GRID)
    maps[0, 0] = seen.view(GRID, PATCH, GRID, PATCH).mean((1, 3))
    return maps


def boxes_on(size: tuple[int, int]) -> list[Box]:
    side = min(size)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return [
        (left + int(a * side), top + int(b * side), left + int(c * side), top + int(d * side)) for a, b, c, d in LAYOUT
    ]


def brightest(encoder: CrossAttention) -> CrossAttention:
    """Keys read channel 0, values pass it on, nothing knows where it is: a query gives the brightest cell it sees."""
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
        (block,) = encoder.blocks
        width = encoder.feature_dim
        block.query.bias.fill_(100.0)
        block.key_value.weight[:width, 0] = 1.0
        block.key_value.weight[width:, 0] = 1.0
        block.out.weight.copy_(torch.eye(width))
    encoder.norm_patches, encoder.norm_out = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    return encoder


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_bright_patch_dominates_its_region_only(view: str, size: tuple[int, int], kind: str) -> None:
    encoder = brightest(make(layers=1))
    regions = [as_kind(kind, box, size) for box in boxes_on(size)]
    table = torch.stack(
        [encoder(inputs_of(regions, brightness_map(view, size, box), size, view))[:, 0, 0] for box in boxes_on(size)]
    )
    assert table.diag().min() > 0.6, table
    assert table[~torch.eye(4, dtype=torch.bool)].abs().max() < 0.05, table


def test_a_region_that_the_view_crops_away_is_named() -> None:
    maps, size = torch.zeros(1, HIDDEN, GRID, GRID), (180, 100)
    mask = np.zeros((100, 180), dtype=bool)
    mask[:, [0, 179]] = True  # its box lies across the view, none of its pixels does
    inside = Region.box(60, 20, 90, 50)
    for region, text in ((Region.mask(mask), "all of the mask of 200 pixels away"), (Region.box(0, 9, 30, 90), "away")):
        with pytest.raises(RegionError, match=rf"^region, image 0 of the batch: .* crops .*{text}; use image_aspect"):
            make()(inputs_of([inside, region], maps, size, "crop"))


def random_boxes(count: int) -> list[Region]:
    corners = np.random.default_rng(1).uniform((0, 0, 48, 48), (47, 47, 96, 96), (count, 4))
    return [Region.box(*corner) for corner in corners]


def test_features_do_not_depend_on_patches_outside_and_do_on_each_inside() -> None:
    maps = random_maps().requires_grad_()
    inputs = inputs_of([as_kind("polygon", (20, 30, 60, 80), SIZES[0])], maps)
    (own,) = covered_cells(inputs, (GRID, GRID), PATCH)
    make()(inputs).square().sum().backward()
    assert maps.grad is not None
    assert np.flatnonzero(maps.grad.abs().sum((0, 1)).flatten().numpy()).tolist() == own.tolist()


@pytest.mark.parametrize("backend", ["sdpa", "eager"])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_any_number_of_regions(count: int, backend: str) -> None:
    encoder = make(tokens=3, backend=backend)
    inputs = inputs_of(random_boxes(count), random_maps())
    features = encoder(inputs)
    assert features.shape == (count, 3, 16)
    assert features.isfinite().all()
    assert torch.equal(features, encoder(inputs))
    torch.testing.assert_close(features, make(tokens=3)(inputs))


def test_a_region_is_the_same_alone_and_in_any_batch() -> None:
    encoder, maps, index = make(context=1), random_maps(3), [2, 0, 0, 2, 1, 0, 1, 2, 2]
    regions = [as_kind(kind, (10, 20, 60, 50), SIZES[0]) for kind in (*KINDS, "box")] + random_boxes(3)
    batch = encoder(inputs_of(regions, maps, index=index))
    for number, region in enumerate(regions):
        alone = encoder(inputs_of([region], maps[index[number]][None]))
        torch.testing.assert_close(batch[number : number + 1], alone, rtol=1e-5, atol=1e-5)
    swapped = encoder(inputs_of(regions[::-1], maps, index=index[::-1]))
    torch.testing.assert_close(swapped.flip(0), batch, rtol=1e-5, atol=1e-5)


def test_regions_of_equal_content_differ_by_their_place_only() -> None:
    encoder, regions = make(), [Region.box(12, 12, 36, 30), Region.box(54, 60, 78, 78)]
    constant = torch.ones(1, HIDDEN, GRID, GRID)
    first, second = encoder(inputs_of(regions, constant))
    assert (first - second).abs().max() > 1e-3
    with torch.no_grad():
        for embedding in (encoder.box_position, encoder.cell_position):
            embedding.weight.zero_()
    first, second = encoder(inputs_of(regions, constant))
    torch.testing.assert_close(first, second)


def test_gradients_reach_every_parameter_and_the_map() -> None:
    encoder, maps = make(), random_maps().requires_grad_()
    encoder(inputs_of(random_boxes(3), maps)).square().sum().backward()
    # The same shift of all keys changes no softmax, and the last norm has a constant sum of squares.
    still = {name for name, p in encoder.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-6}
    assert still == {"cell_position.bias"}
    assert maps.grad is not None
    assert maps.grad.any()
    assert {type(module) for module in encoder.modules() if list(module.parameters(recurse=False))} <= {
        nn.Linear,
        nn.LayerNorm,
        nn.Embedding,
        cross_layers_module.FourierEmbedding,
    }


@pytest.mark.slow
def test_it_learns_which_corner_of_a_region_is_bright() -> None:
    """Four classes that neither the region nor its mean tells apart."""
    encoder, head, generator = make(layers=2), nn.Linear(64, 4), torch.Generator().manual_seed(2)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3)
    accuracy = 0.0
    for step in range(150):
        labels = torch.randint(4, (32,), generator=generator)
        maps = 0.1 * torch.randn(32, HIDDEN, GRID, GRID, generator=generator)
        corners = torch.randint(0, 10, (32, 2), generator=generator)
        for map_, label, (row, column) in zip(maps, labels.tolist(), corners.tolist(), strict=True):
            map_[:3, row + 4 * (label // 2), column + 4 * (label % 2)] += 3
        cell = SIZES[0][0] / GRID
        regions = [Region.box(c * cell, r * cell, (c + 5) * cell, (r + 5) * cell) for r, c in corners.tolist()]
        logits = head(encoder(inputs_of(regions, maps, index=list(range(32)))).flatten(1))
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        accuracy += (logits.argmax(1) == labels).float().mean().item() / 20 if step >= 130 else 0
    assert accuracy > 0.95


def test_work_is_the_sum_of_covered_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values once per patch that any region covers; attention once per covered patch of a region."""
    encoder, rows, keys = make(layers=1, tokens=2), [], []
    real = cross_layers_module.varlen_cross_attention
    monkeypatch.setattr(
        cross_layers_module,
        "varlen_cross_attention",
        lambda q, k, *a: (rows.append((len(q), len(k))), real(q, k, *a))[1],
    )
    encoder.blocks[0].key_value.register_forward_hook(lambda _m, args, _out: keys.append(len(args[0])))
    cell = SIZES[0][0] // GRID
    small = [Region.box(0, 0, 2 * cell, 3 * cell), Region.box(cell, 0, 4 * cell, 2 * cell)]
    encoder(inputs_of(small, random_maps()))
    encoder(inputs_of(small * 50, random_maps()))
    encoder(inputs_of([Region.box(0, 0, 96, 96)], random_maps()))
    assert rows == [(4, 12), (200, 600), (2, 256)]
    assert keys == [10, 10, 256]  # two of the twelve are shared


def test_half_precision_and_autocast() -> None:
    regions, maps = random_boxes(5), random_maps()
    exact = make()(inputs_of(regions, maps))
    half = make().bfloat16()(inputs_of(regions, maps.bfloat16()))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = make()(inputs_of(regions, maps))
    assert half.dtype == torch.bfloat16
    for own in (half.float(), mixed.float()):
        assert (own - exact).norm() / exact.norm() < 0.03


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 0}, r"\{'tokens': 0\} are too small"),
        ({"context": -1}, r"\{'context': -1\} are too small"),
        ({"width": 4}, "unknown cross_attention options"),
        ({"layer": 7}, "got .7."),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)
