"""Ferret's sampler against the original's numbers (goldens g5a, g5c), and what is ours in it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pvit_ext.config import RegionConfig
from pvit_ext.encoders.base import RegionInputs
from pvit_ext.encoders.ferret.encoder import Ferret, build
from pvit_ext.encoders.ferret.point_groups import bilinear_taps, farthest_points, nearest_points
from pvit_ext.encoders.grid_masks import points_inside, sample_masks
from pvit_ext.regions.region import Region
from tests import tower_inputs as tower
from tests.benchmarks import straightforward_ferret
from tests.goldens import rules
from tests.goldens.shapes import header, ruled_state_dict

GOLDENS = Path(__file__).parents[1] / "goldens"
MAPS = {"g5a_ferret_narrow": "g5a_ferret_geosampler_narrow_mean", "g5c_ferret": "g5c_ferret_geosampler_full_1024_4096"}
IMAGES = torch.tensor([0, 0, 0, 0, 2, 2])  # the middle one has no region


def golden(name: str) -> dict[str, Tensor]:
    return load_file(GOLDENS / f"{name}.safetensors")


def loaded(name: str, folder: Path) -> Ferret:
    args = header(name, "args")
    options = {"pooler": args["pooler_mode"], "output_dim": args["output_dim"], "legacy_geometry": True}
    sizes = SimpleNamespace(hidden_size=args["input_dim"], num_hidden_layers=24, patch_size=14)
    encoder = build(RegionConfig("ferret", encoder_options=options), sizes)
    weights = ruled_state_dict(name, "region_geo_sampler", 5)
    torch.save(
        {"model." + key: value for key, value in weights.items()} | {"lm_head.weight": torch.zeros(2)}, folder / "w.bin"
    )
    encoder.load_weights(str(folder / "w.bin"))
    back = encoder.original_state_dict()
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[key], weights[key]) for key in weights)
    return encoder


def features_of(encoder: Ferret, name: str) -> tuple[Tensor, Tensor]:
    """Features with the original's points, start and choice among equally near neighbours; and the maps they are of."""
    draw = golden("g5a_ferret_narrow")  # both goldens drew the same points
    width = encoder.rounds[0].width
    tokens = rules.normal(f"{MAPS[name]}.feature_map", (3, 576, width), 5).requires_grad_()
    feature_map = tokens.transpose(1, 2).unflatten(2, (24, 24))
    first = [draw[f"farthest{i}"][:, 0].long() for i in (0, 1)]
    nearest = [draw[f"nearest{i}"].long() for i in (0, 1)]
    unit = torch.ones(3, 2)  # the golden's points are fractions
    return encoder.encode(feature_map, draw["points"], unit, IMAGES, first, nearest)[:, 0], tokens


def relative(a: Tensor, b: Tensor) -> float:
    """Of the worst row."""
    a, b = a.detach().double(), b.double()
    return float(((a - b).norm(dim=-1) / b.norm(dim=-1)).max())


def test_g5a_features_and_gradients(tmp_path: Path) -> None:
    numbers = golden("g5a_ferret_narrow")
    features, tokens = features_of(loaded("g5a_ferret_narrow", tmp_path), "g5a_ferret_narrow")
    assert relative(features, numbers["out"]) < 1e-5
    (features * numbers["cotangent"]).sum().backward()
    assert relative(tokens.grad.flatten(), numbers["grad"].flatten()) < 1e-5


def test_g5a_points_are_chosen_as_the_original_chooses() -> None:
    numbers = golden("g5a_ferret_narrow")
    points = numbers["points"]
    for i, count in enumerate((128, 32)):
        kept = farthest_points(points, count, numbers[f"farthest{i}"][:, 0].long())
        assert torch.equal(kept, numbers[f"farthest{i}"].long())
        centres = straightforward_ferret.chosen(points, kept)
        ours, theirs = (
            (straightforward_ferret.chosen(points, near) - centres[:, :, None]).square().sum(-1).sort(-1).values
            for near in (nearest_points(points, centres, 24), numbers[f"nearest{i}"].long())
        )
        # Neighbours are equally far; which of several at one distance is taken is a matter of rounding.
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
        points = centres


@pytest.mark.slow
def test_g5c_true_size(tmp_path: Path) -> None:
    with torch.no_grad():
        features, _ = features_of(loaded("g5c_ferret", tmp_path), "g5c_ferret")
    assert relative(features, golden("g5c_ferret")["out"]) < 1e-5


def tiny(seed: int = 0, **options: Any) -> Ferret:
    torch.manual_seed(seed)
    defaults = {"points": 96, "groups": [32, 8], "neighbors": [12, 6]}
    return build(RegionConfig("ferret", encoder_options=defaults | options), tower.TOWER)


@pytest.mark.parametrize(
    "options", [{}, {"pooler": "mean", "tokens": 4, "output_dim": 6}, {"groups": [8], "neighbors": [96]}]
)
def test_equals_the_straightforward_formulation(options: dict[str, Any]) -> None:
    encoder = tiny(**options)
    feature_map, index = torch.randn(2, 16, 16, 16), torch.tensor([1, 0, 1])
    points = torch.rand(3, 96, 2) * tower.SIDE
    sizes = torch.full((2, 2), float(tower.SIDE))
    ours, plain = (
        form(feature_map, points, sizes, index)
        for form in (encoder.encode, lambda *args: straightforward_ferret.encode(encoder, *args))
    )
    assert ours.shape == (3, encoder.tokens_per_region, encoder.feature_dim)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(out.square().sum(), list(encoder.parameters())) for out in (ours, plain)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()) + 1e-6)


def test_legacy_geometry_reads_the_transposed_place() -> None:
    right, legacy = tiny(), tiny(legacy_geometry=True)
    size, box, transposed = (96, 96), (60, 5, 90, 30), (5, 60, 30, 90)
    pictures = [tower.draw(size, bright) for bright in (None, box, transposed)]
    for encoder, seen in ((right, 1), (legacy, 2)):
        with torch.no_grad():
            features = encoder(tower.inputs_of(encoder, [(picture, [Region.box(*box)]) for picture in pictures]))[:, 0]
        change = (features - features[0]).norm(dim=1)
        assert change[seen] > 0.1
        assert change[3 - seen] < 1e-4


# Points


def inputs_of(regions: list[Region], size: tuple[int, int], view: str = "square") -> RegionInputs:
    resolved = [region.resolve(size) for region in regions]
    return RegionInputs(
        resolved, torch.zeros(len(regions), dtype=torch.int64), [size], views=[tower.view_of(view, size)]
    )


@pytest.mark.parametrize("view", tower.VIEWS)
@pytest.mark.parametrize("kind", ["box", "mask", "point", "polygon", "scribble"])
def test_points_lie_inside_the_region(kind: str, view: str) -> None:
    size = (180, 100)
    regions = [tower.as_kind(kind, box, size) for box in tower.boxes_on(size)]
    inputs = inputs_of(regions, size, view)
    points = points_inside(inputs, 300).double().numpy()
    assert points.shape == (4, 300, 2)
    affine = inputs.views[0]
    for number, inside in enumerate(points):
        mask = inputs.mask(number)
        x, y = ((inside - affine.shift) / affine.scale + [1e-5, 1e-5]).T.astype(int)
        assert mask[y.clip(0, 99), x.clip(0, 179)].mean() > 0.99
        assert len(np.unique(inside, axis=0)) == 300


def test_points_of_a_cropped_region_lie_in_its_visible_part() -> None:
    inputs = inputs_of([Region.box(0, 10, 60, 90), Region.box(100, 0, 180, 100)], (180, 100), "crop")
    points = points_inside(inputs, 200)
    assert points.min() >= 0
    assert points.max() <= tower.SIDE
    left, right = points[0, :, 0], points[1, :, 0]
    assert left.max() < 14  # columns 40 to 60 of 40 to 140 are 0 to 12.8 of 64
    assert left.min() < 1
    assert right.min() > 37
    assert right.max() > 63


def test_points_spread_evenly_and_by_area() -> None:
    """Sixteen equal cells of a box get a sixteenth each, within one or two; random points miss by five and more."""
    points = points_inside(inputs_of([Region.box(10, 20, 74, 84)], (96, 96)), 512)[0] * 96 / 64
    cells = ((points - torch.tensor([10.0, 20.0])) / 16).long()
    counts = torch.bincount(cells[:, 1] * 4 + cells[:, 0], minlength=16)
    assert (counts - 32).abs().max() <= 3
    mask = np.zeros((96, 96), dtype=bool)
    mask[0:10, 0:10], mask[50:70, 60:90] = True, True  # 100 and 600 pixels
    first = (points_inside(inputs_of([Region.mask(mask)], (96, 96)), 512)[0].amax(1) < 8).sum()
    assert abs(int(first) - 512 / 7) <= 4


def test_points_depend_on_nothing_but_region_view_and_seed() -> None:
    regions = [Region.box(1, 2, 30, 40), Region.scribble([(5, 5), (80, 60)]), Region.box(1, 2, 30, 40)]
    inputs = inputs_of(regions, (96, 96))
    points = points_inside(inputs, 64)
    assert torch.equal(points[0], points[2])
    assert torch.equal(points[1], points_inside(inputs_of(regions[1:2], (96, 96)), 64)[0])
    assert torch.equal(points, points_inside(inputs_of(regions, (96, 96)), 64))
    assert not torch.equal(points, points_inside(inputs, 64, seed=1))


def test_taps_read_a_linear_map_exactly() -> None:
    places = (torch.arange(16.0) + 0.5) * tower.PATCH
    ramp = torch.stack([places.expand(16, 16), places[:, None].expand(16, 16)], -1).view(256, 2)
    points = torch.rand(2, 50, 2) * 60 + 2  # between the outermost centres
    taps = bilinear_taps(points / tower.PATCH - 0.5, (16, 16), torch.tensor([0, 1]))
    torch.testing.assert_close(taps.read(torch.cat([ramp, ramp])), points)


def test_options_that_cannot_be() -> None:
    wrong: dict[str, dict[str, Any]] = {
        r"needs neighbors for each of its groups \(32, 8\), got \(12,\)": {"neighbors": [12]},
        r"groups become smaller from 96 points on, got \(128, 8\)": {"groups": [128, 8]},
        r"neighbors \(12, 40\) exceed the points \(96, 32\)": {"neighbors": [12, 40]},
        "unknown ferret pooler 'sum'; known: max, mean": {"pooler": "sum"},
        "tokens divide its last 8 groups, got 3": {"tokens": 3},
    }
    for message, options in wrong.items():
        with pytest.raises(ValueError, match=message):
            tiny(**options)


def test_masks_of_a_batch_are_not_all_in_memory() -> None:
    size = (2000, 1500)
    regions = [Region.box(n, n, n + 20, n + 30) for n in range(60)]  # 3 MB a mask
    inputs = inputs_of(regions, size, "square")
    tracemalloc.start()
    points_inside(inputs, 8)
    sample_masks(inputs, (4, 4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6
