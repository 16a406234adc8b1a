"""The vision aggregator in families of transformers: no change at the start, rows at their cells, one tower pass."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pvit_ext.adapters.lion.aggregator import VisionAggregator
from pvit_ext.hosts.base import ImageViews
from pvit_ext.hosts.transformers.vision_pass import TransformersVisionPass
from tests.hosts.transformers.inputs import (
    IMAGES,
    NAMES,
    PLAIN,
    QUESTIONS,
    REGIONS,
    plain_batch,
    region_batch,
    with_regions,
)
from tests.hosts.transformers.zoo_of_others import OTHERS

SOME = ["llava", *(pytest.param(name, marks=pytest.mark.slow) for name in [*NAMES[1:], *OTHERS])]


def put(model: Any, learned: bool = True) -> VisionAggregator:
    """Give a model an aggregator; a learned one adds something."""
    torch.manual_seed(1)
    layers = (2, 1, 0) if model.config.model_type == "glm4v" else (3, 2, 1)
    part = VisionAggregator(32, 64, layers, heads=4)
    if learned:
        for linear in part.modules():
            if isinstance(linear, nn.Linear):
                nn.init.normal_(linear.weight, std=0.2)
    model.region_aggregator = part
    return part


@torch.no_grad()
@pytest.mark.parametrize("name", SOME)
def test_a_new_one_changes_nothing_and_a_learned_one_something(name: str) -> None:
    model, processor = with_regions(name)
    for batch in (plain_batch(processor), region_batch(model, processor)):
        model.region_aggregator = None
        before = model(**batch).logits
        put(model, learned=False)
        assert torch.equal(model(**batch).logits, before)
        put(model)
        assert not torch.allclose(model(**batch).logits, before, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", ["llava", pytest.param("llava_next", marks=pytest.mark.slow)])
def test_rows_stand_at_their_cells(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row n of the aggregator is n, and the image's own rows are left out."""
    model, processor = with_regions(name)
    batch = region_batch(model, processor)
    part, inner = put(model), model.base_model
    own = {key: batch[key] for key in ("pixel_values", "image_sizes") if key in batch}
    model.region_aggregator = None
    before = inner.get_image_features(**own).pooler_output
    model.region_aggregator = part

    def counted(layers: list[Tensor], bounds: Tensor, groups: None) -> Tensor:
        return torch.arange(1.0, 1 + len(layers[0]))[:, None].expand(-1, 64)

    monkeypatch.setattr(part, "forward", counted)
    out = inner.get_image_features(**own)
    host = inner.region_host
    tables = host.cells(batch, out.hidden_states, [ImageViews(*one) for one in batch["region_views"]], True)
    per_crop = next(layer for layer in out.hidden_states if layer is not None).shape[1]
    for image, (first, after) in enumerate(zip(before, out.pooler_output, strict=True)):
        added = (after - first)[:, 0].round().long()
        crop, cell = tables[image] // per_crop, tables[image] % per_crop - 1  # behind a class token
        table = crop * (per_crop - 1) + cell + 1  # (rows, columns)
        if name == "llava":
            assert torch.equal(added, table.flatten())
            continue
        lines = added[per_crop - 1 :].view(-1, _columns(added[per_crop - 1 :]))
        top = (table.shape[0] - lines.shape[0]) // 2  # padding is cut off
        side = (table.shape[1] - lines.shape[1] + 1) // 2
        assert not lines[:, -1].any()
        assert torch.equal(lines[:, :-1], table[top : top + len(lines), side : side + lines.shape[1] - 1])


MERGES = ["qwen2_5_vl", "qwen2_vl", "qwen3_vl", "glm4v", "internvl", "gemma3", "mistral3", "pixtral"]


@torch.no_grad()
@pytest.mark.parametrize(
    "name", [name if name == "qwen2_5_vl" else pytest.param(name, marks=pytest.mark.slow) for name in MERGES]
)
def test_a_row_is_of_the_cells_that_the_model_merges_into_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row r of the language model is r; the cells that stand behind it lie in its square of their image."""
    model, processor = with_regions(name)
    batch, part, inner = region_batch(model, processor), put(model), model.base_model
    own = {key: batch[key] for key in ("pixel_values", "image_sizes", "image_grid_thw") if key in batch}
    model.region_aggregator = None
    before = rows_of(inner.get_image_features(**own).pooler_output)
    model.region_aggregator = part
    seen: list[Any] = []

    def numbered(layers: list[Tensor], bounds: Tensor, groups: Tensor | None) -> Tensor:
        seen.append((bounds, groups, len(layers[0])))
        cells = torch.arange(1.0, 1 + len(layers[0]))
        found = cells if groups is None else cells[groups].mean(1)
        return found[:, None].expand(-1, 64)

    monkeypatch.setattr(part, "forward", numbered)
    out = inner.get_image_features(**own)
    added = (rows_of(out.pooler_output) - before)[:, 0] - 1
    views = [ImageViews(*one) for one in batch["region_views"]]
    tables = inner.region_host.cells(batch, out.hidden_states, views, True)
    (bounds, groups, count), skipped = seen[0], class_tokens(out.hidden_states)
    assert bounds[-1] == count
    if name == "internvl":  # a thumbnail stands beside the tiles
        merged = inner.pixel_shuffle(torch.arange(float(count)).view(-1, 4, 4, 1))  # (crops, 2, 2, cells)
        assert torch.equal(added, merged.mean(-1).flatten())
        return
    expected = []
    for table in tables:  # (rows, columns), position in the tower's output of each cell
        cells = (table - skipped * (table // (16 + skipped) + 1)).float() if skipped else table.float()
        side = 1 if groups is None else math.isqrt(groups.shape[1])
        expected.append(F.avg_pool2d(cells[None], side).flatten())
    assert torch.allclose(added, torch.cat(expected), atol=1e-3)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_vl"])
def test_videos_get_no_rows(name: str) -> None:
    """Qwen3-VL sees them by its method for images."""
    model, processor = with_regions(name)
    batch, inner = region_batch(model, processor), model.base_model
    seen = [batch["pixel_values"], batch["image_grid_thw"]]  # a video of one frame is such a sequence too
    put(model)
    found = rows_of(inner.get_video_features(*seen).pooler_output)
    model.region_aggregator = None
    assert torch.equal(rows_of(inner.get_video_features(*seen).pooler_output), found)


def rows_of(features: Any) -> Tensor:
    """(R, D) of what ``get_image_features`` returns."""
    return torch.cat([one.flatten(0, -2) for one in features])


def class_tokens(hidden: Any) -> int:
    """Positions of a crop that are no cells."""
    layer = next(one for one in hidden if one is not None)
    return layer.shape[1] % 16 if layer.dim() == 3 and layer.shape[0] > 1 else 0


def _columns(lines: Tensor) -> int:
    """Length of a line, which ends with a newline of zero."""
    return int((lines == 0).nonzero()[0]) + 1


@torch.no_grad()
@pytest.mark.parametrize("name", SOME)
def test_an_image_has_the_same_logits_alone_and_the_tower_runs_once(name: str) -> None:
    model, processor = with_regions(name)
    put(model)
    batch, runs = region_batch(model, processor), list[int]()
    handle = model.base_model.region_host.tower.register_forward_hook(lambda *_: runs.append(1))
    together = model(**batch).logits[:, -1]
    handle.remove()
    assert len(runs) == 1
    for row in range(2):
        alone = region_batch(model, processor, QUESTIONS[row : row + 1], REGIONS[row : row + 1], IMAGES[row : row + 1])
        torch.testing.assert_close(model(**alone).logits[:, -1], together[row : row + 1], atol=2e-4, rtol=1e-3)
    one, other = (model.generate(**batch, max_new_tokens=4, use_cache=use, do_sample=False) for use in (True, False))
    assert torch.equal(one, other)


def test_a_cache_of_the_tower_keeps_its_layers() -> None:
    model, processor = with_regions("llava", options={"layers": [-2], "position_grid": 8})
    before = TransformersVisionPass(model, processor).layers
    put(model)
    assert TransformersVisionPass(model, processor).layers == sorted({*before, 3, 2, 1})


def test_it_learns_from_image_and_text() -> None:
    model, processor = with_regions("llava")
    part, batch = put(model.train()), plain_batch(processor, PLAIN)
    model(**batch, labels=batch["input_ids"]).loss.backward()
    assert all(one.grad is not None and one.grad.any() for one in part.parameters())
