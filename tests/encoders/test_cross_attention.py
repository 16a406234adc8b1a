"""Region queries attend to the patches a region touches and to no other; gated layers start as the identity."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from pvit_ext import Region, RegionConfig, RegionError
from pvit_ext.encoders.base import RegionInputs
from pvit_ext.encoders.coverage import covered_cells
from pvit_ext.encoders.cross_attention import CrossAttention, build
from pvit_ext.ops import cross_attention as cross_layers_module
from pvit_ext.ops.cross_attention import CrossLayers
from pvit_ext.regions.view import View
from tests.tower_inputs import as_kind

SIDE, PATCH, HIDDEN = 112, 7, 12
GRID = SIDE // PATCH
TOWER = SimpleNamespace(hidden_size=HIDDEN, num_hidden_layers=3, patch_size=PATCH)
SIZES = [(96, 96), (180, 100), (100, 180)]
VIEWS = ["square", "crop", "pad"]
KINDS = ["box", "mask", "point", "polygon", "scribble"]
# Fractions of the middle square, which a centre crop keeps.
PLACES = [(0.05, 0.05, 0.35, 0.25), (0.6, 0.1, 0.95, 0.45), (0.1, 0.5, 0.3, 0.95), (0.55, 0.6, 0.8, 0.9)]
Box = tuple[int, int, int, int]


def make(**options: Any) -> CrossAttention:
    torch.manual_seed(0)
    return build(RegionConfig("cross_attention", encoder_options={"heads": 2, "head_dim": 8, **options}), TOWER)


def view_of(kind: str, size: tuple[int, int]) -> View:
    if kind == "square":
        return View.resize(size, (SIDE, SIDE))
    if kind == "crop":
        return View.shortest_edge(size, SIDE).center_crop((SIDE, SIDE))
    padded = View.pad_to_square(size)
    return padded.then(View.resize(padded.size, (SIDE, SIDE)))


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
        (left + int(a * side), top + int(b * side), left + int(c * side), top + int(d * side)) for a, b, c, d in PLACES
    ]


def inputs_of(
    regions: list[Region], maps: Tensor, size: tuple[int, int] = SIZES[0], view: str = "pad", index: Any = None
) -> RegionInputs:
    count = len(maps)
    image_index = torch.tensor([0] * len(regions) if index is None else index, dtype=torch.int64)
    resolved = [region.resolve(size) for region in regions]
    return RegionInputs(resolved, image_index, [size] * count, [maps], [view_of(view, size)] * count)


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


# Which cells


def overlap(cells: int, cell: float, low: float, high: float) -> np.ndarray[Any, Any]:
    """Length of [low, high) within each of the cells, in cells."""
    edges = np.arange(cells + 1) * cell
    return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) / cell


def cells_by_hand(region: Region, size: tuple[int, int], view: View, tolerance: float) -> set[int]:
    """Cells that share area with any pixel of the region's mask, or with the box, one rectangle at a time."""
    region = region.resolve(size)
    if region.kind == "box":
        rectangles = [region.bounds(size)]
    else:
        rectangles = [(x, y, x + 1, y + 1) for y, x in np.argwhere(region.to_mask(size)).tolist()]
    found: set[int] = set()
    for x0, y0, x1, y1 in rectangles:
        x = overlap(GRID, PATCH, x0 * view.scale[0] + view.shift[0], x1 * view.scale[0] + view.shift[0])
        y = overlap(GRID, PATCH, y0 * view.scale[1] + view.shift[1], y1 * view.scale[1] + view.shift[1])
        found |= set(np.flatnonzero((y[:, None] > tolerance) & (x[None] > tolerance)).tolist())
    return found


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(VIEWS), st.sampled_from(SIZES), st.sampled_from(KINDS), st.data())
def test_cells_are_those_that_the_region_touches(view: str, size: tuple[int, int], kind: str, data: Any) -> None:
    side, left, top = min(size), (size[0] - min(size)) // 2, (size[1] - min(size)) // 2
    x0, y0 = (data.draw(st.integers(0, side - 12)) for _ in range(2))
    x1, y1 = (data.draw(st.integers(low + 10, side)) for low in (x0, y0))
    region = as_kind(kind, (left + x0, top + y0, left + x1, top + y1), size)
    inputs = inputs_of([region], torch.zeros(1, HIDDEN, GRID, GRID), size, view)
    (own,) = covered_cells(inputs, (GRID, GRID), PATCH)
    assert own.tolist() == sorted(own.tolist())
    certain, possible = (cells_by_hand(region, size, inputs.views[0], slack) for slack in (2e-3, 0.0))
    assert certain <= set(own.tolist()) <= possible
    (ringed,) = covered_cells(inputs, (GRID, GRID), PATCH, context=1)
    around = {
        r * GRID + c
        for at in own.tolist()
        for r in range(max(at // GRID - 1, 0), min(at // GRID + 2, GRID))
        for c in range(max(at % GRID - 1, 0), min(at % GRID + 2, GRID))
    }
    assert set(ringed.tolist()) == around


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", ["box", "mask", "sliver"])
def test_a_region_of_one_pixel_or_less_has_the_cell_of_its_centre(view: str, kind: str) -> None:
    size = (1800, 1000)  # a cell is up to 112 pixels
    for x, y in ((401, 0), (899, 555), (1390, 999)):
        if kind == "mask":
            mask = np.zeros((1000, 1800), dtype=bool)
            mask[y, x] = True
            region = Region.mask(mask)
        else:
            region = Region.box(x, y, x + 1, y + 1) if kind == "box" else Region.box(x + 0.4, y + 0.4, x + 0.6, y + 0.6)
        inputs = inputs_of([region], torch.zeros(1, HIDDEN, GRID, GRID), size, view)
        (own,) = covered_cells(inputs, (GRID, GRID), PATCH)
        centre = inputs.views[0].map_boxes(torch.tensor([[x + 0.5, y + 0.5] * 2]))[0] / PATCH
        assert own.tolist() == [int(centre[1]) * GRID + int(centre[0])]


def test_boxes_on_the_edges_of_cells_cover_no_neighbour() -> None:
    size, grid = (1344, 1344), 96  # float32 edges that are not exact: 14 / 1344 in the normalised box
    view = View.resize(size, (GRID * 6 * PATCH, GRID * 6 * PATCH))
    for first in range(0, 90, 7):
        region = Region.box(*(edge * 14 / 1344 for edge in (first, first, first + 3, first + 2)), normalized=True)
        inputs = RegionInputs([region.resolve(size)], torch.tensor([0]), [size], [], [view])
        (own,) = covered_cells(inputs, (grid, grid), PATCH)
        assert own.tolist() == [r * grid + c for r in (first, first + 1) for c in range(first, first + 3)]


def test_what_lies_in_the_strip_that_a_tower_drops_has_the_last_cell() -> None:
    view = View.resize((30, 30), (30, 30))  # four patches of 7 px, 2 px left over
    mask = np.zeros((30, 30), dtype=bool)
    mask[3, 29] = True
    regions = [Region.box(28.5, 1, 30, 9), Region.mask(mask)]
    inputs = RegionInputs(regions, torch.tensor([0, 0]), [(30, 30)], [], [view])
    assert [cells.tolist() for cells in covered_cells(inputs, (4, 4), 7)] == [[3, 7], [3]]


def test_a_region_that_the_view_crops_away_is_named() -> None:
    maps, size = torch.zeros(1, HIDDEN, GRID, GRID), (180, 100)
    mask = np.zeros((100, 180), dtype=bool)
    mask[:, [0, 179]] = True  # its box lies across the view, none of its pixels does
    inside = Region.box(60, 20, 90, 50)
    for region, text in ((Region.mask(mask), "all of the mask of 200 pixels away"), (Region.box(0, 9, 30, 90), "away")):
        with pytest.raises(RegionError, match=rf"^region, image 0 of the batch: .* crops .*{text}; use image_aspect"):
            make()(inputs_of([inside, region], maps, size, "crop"))


# The encoder


def random_maps(count: int = 1) -> Tensor:
    return torch.randn(count, HIDDEN, GRID, GRID, generator=torch.Generator().manual_seed(5))


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


# Gated layers behind any encoder


def make_layers(opened: bool, feature_dim: int = 20, layers: int = 2) -> CrossLayers:
    torch.manual_seed(1)
    module = CrossLayers(feature_dim, HIDDEN, layers, head_dim=8)
    if opened:
        for block in module.blocks:
            nn.init.constant_(block.gates.weight, 0.7)
    return module


def layer_inputs(count: int = 7, tokens: int = 3, images: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    index = torch.randint(0, images, (count,), generator=generator)
    boxes = torch.rand(count, 4, generator=generator)
    return torch.randn(count, tokens, 20, generator=generator), random_maps(images), index, boxes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_closed_gates_are_the_identity(dtype: torch.dtype) -> None:
    features, maps, index, boxes = layer_inputs()
    module = make_layers(opened=False)
    assert torch.equal(module(features.to(dtype), maps, index, boxes), features.to(dtype))
    assert torch.equal(module.to(dtype)(features, maps.to(dtype), index, boxes), features)
    opened = make_layers(opened=True)
    assert (opened(features, maps, index, boxes) - features).abs().min(2).values.max() > 1e-3
    opened.reset()
    assert torch.equal(opened(features, maps, index, boxes), features)


def by_hand(module: CrossLayers, features: Tensor, maps: Tensor, index: Tensor, boxes: Tensor) -> Tensor:
    """Region by region and head by head, the softmax written out."""
    results = []
    for x, image, box in zip(features, index, boxes, strict=True):
        patches = module.norm_patches(maps[image].flatten(1).T)
        position = module.position(box[None]).to(x)
        for block in module.blocks:
            queries = block.query(block.norm_attention(x) + position)
            keys, values = block.key_value(patches).chunk(2, 1)
            heads = []
            for part in range(block.heads):
                rows = slice(part * 8, part * 8 + 8)
                heads.append((queries[:, rows] @ keys[:, rows].T / 8**0.5).softmax(1) @ values[:, rows])
            x = x + block.gates.weight[0] * block.out(torch.cat(heads, 1))
            x = x + block.gates.weight[1] * block.mlp(block.norm_mlp(x))
        results.append(x)
    return torch.stack(results)


def test_open_gates_attend_to_every_patch_of_the_own_image() -> None:
    module = make_layers(opened=True).double()
    features, maps, index, boxes = layer_inputs()
    args = features.double(), maps.double(), index, boxes
    torch.testing.assert_close(module(*args), by_hand(module, *args), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("count", [0, 1, 500])
def test_layers_take_any_number_of_regions_and_no_batch_changes_one(count: int) -> None:
    module = make_layers(opened=True)
    features, maps, index, boxes = layer_inputs(count)
    batch = module(features, maps, index, boxes)
    assert batch.shape == features.shape
    assert torch.equal(batch, module(features, maps, index, boxes))
    for n in range(min(count, 5)):
        alone = module(features[n : n + 1], maps[index[n]][None], torch.tensor([0]), boxes[n : n + 1])
        torch.testing.assert_close(batch[n : n + 1], alone, rtol=1e-5, atol=1e-5)


def test_gates_open_first_then_the_rest_learns() -> None:
    features, maps, index, boxes = layer_inputs()

    def moved(module: CrossLayers) -> set[str]:
        module(features, maps, index, boxes).square().sum().backward()
        return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-7}

    assert moved(make_layers(opened=False)) == {"blocks.0.gates.weight", "blocks.1.gates.weight"}
    module = make_layers(opened=True)
    assert moved(module) == {name for name, _ in module.named_parameters()}


def test_layers_survive_a_state_dict() -> None:
    opened, fresh, args = make_layers(opened=True), make_layers(opened=False), layer_inputs()
    fresh.load_state_dict(opened.state_dict())
    assert torch.equal(fresh(*args), opened(*args))
