"""The vision aggregator in LLaVA: no change at the start, each row at its cell or behind its image, one tower pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pvit_ext import Query, Region, RegionError
from pvit_ext.adapters.lion.aggregator import VisionAggregator
from pvit_ext.hosts.llava.image_layout import ImageLayout
from pvit_ext.hosts.llava.vision_pass import LlavaVisionPass
from tests.hosts.brightness import smooth
from tests.hosts.llava.tiled import CELLS, MERGES, SIZES, Loaded, ask_for, batch_of, give

LAYERS = (3, 2, 1)
BOX = Region.box(5, 5, 50, 60)
IGNORE = -100


@pytest.fixture(params=[False, True], ids=["added", "appended"])
def mode(request: pytest.FixtureRequest) -> bool:
    appended: bool = request.param
    return appended


@pytest.fixture
def tiled(anyres: Loaded) -> Iterator[Loaded]:
    """A LLaVA-1.6 with an encoder, whose aggregator goes when the test ends."""
    give(anyres, "test_tower_roi")
    yield anyres
    anyres[1].get_model().region_aggregator = None
    anyres[1].eval()


def put(model: Any, appended: bool, learned: bool = True) -> VisionAggregator:
    """Give a model an aggregator; a learned one adds something."""
    torch.manual_seed(1)
    part = VisionAggregator(32, model.config.hidden_size, LAYERS, heads=4, appended=appended)
    if learned:
        for block in part.blocks:
            for linear in block.modules():
                if isinstance(linear, nn.Linear):
                    nn.init.normal_(linear.weight, std=0.2)
        nn.init.normal_(part.rows.weight, std=0.2)
    model.get_model().region_aggregator = part.requires_grad_(True)
    return part


def layout_of(model: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(embeds, mask)."""
    out = model.prepare_inputs_labels_for_multimodal(**batch)
    return out[4], out[2]


@torch.no_grad()
def test_a_new_one_changes_nothing_with_tiles_unpad_and_newlines(tiled: Loaded) -> None:
    model = tiled[1]
    for merge in MERGES:
        model.config.mm_patch_merge_type = merge
        batch = batch_of(tiled, [ask_for(smooth(size), [BOX]) for size in SIZES[:2]])
        model.get_model().region_aggregator = None
        before, _ = layout_of(model, batch)
        put(model, appended=False, learned=False)
        assert torch.equal(layout_of(model, batch)[0], before)
        put(model, appended=False)
        assert not torch.allclose(layout_of(model, batch)[0], before)


@torch.no_grad()
@pytest.mark.parametrize("merge", ["spatial", "spatial_unpad"])
def test_added_rows_follow_their_cells_through_tiles(
    tiled: Loaded, merge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row n of the aggregator is n: what LLaVA lays out is compared with our own table of an image's cells."""
    model, size = tiled[1], SIZES[1]
    model.config.mm_patch_merge_type = merge
    part, layout = put(model, appended=False), ImageLayout.of(model)
    batch = batch_of(tiled, [Query(smooth(size), "What is in this picture?")])
    model.get_model().region_aggregator = None
    start, before = int((batch["input_ids"][0] == -200).nonzero()), layout_of(model, batch)[0][0]
    model.get_model().region_aggregator = part

    def counted(layers: list[Tensor], bounds: Tensor) -> Tensor:
        return torch.arange(1.0, 1 + len(layers[0]))[:, None].expand(-1, model.config.hidden_size)

    monkeypatch.setattr(part, "forward", counted)
    added = (layout_of(model, batch)[0][0] - before)[:, 0].round().long()[start:]
    crops = batch["images"].shape[1]
    number = torch.arange(1.0, 1 + crops * CELLS**2).view(crops, 1, CELLS, CELLS)
    tiles = layout.join([number], [crops], [size])[0][0][0, 0].long()  # (rows, columns) of all tiles
    assert torch.equal(added[: CELLS**2], number[0].flatten().long())
    rest = added[CELLS**2 : layout.positions(size)]
    if merge == "spatial":
        assert torch.equal(rest, tiles.flatten())
    else:
        lines = rest.view(-1, tiles.shape[1] + 1)  # one newline a line
        assert torch.equal(lines[:, :-1], tiles)
        assert not lines[:, -1].any()
    assert not added[layout.positions(size) :].any()


@torch.no_grad()
def test_an_image_has_the_same_rows_beside_others(tiled: Loaded, mode: bool) -> None:
    model = tiled[1]
    put(model, mode)
    queries = [ask_for(smooth(size), [BOX]) for size in SIZES[:3]]
    embeds, mask = layout_of(model, batch_of(tiled, [*queries, Query(None, "Compare these")]))
    for row, query in enumerate(queries):
        alone = layout_of(model, batch_of(tiled, [query]))[0][0]
        torch.testing.assert_close(embeds[row, mask[row].bool()], alone, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_appended_rows_stand_behind_their_image_and_are_counted(tiled: Loaded) -> None:
    model, size = tiled[1], SIZES[0]
    query = ask_for(smooth(size), [BOX])
    model.get_model().region_aggregator = None
    own, plain_batch = ImageLayout.of(model).positions(size), batch_of(tiled, [query])
    before = layout_of(model, plain_batch)[0][0]
    put(model, appended=True)
    batch = batch_of(tiled, [query])
    behind = int((batch["input_ids"][0] == -200).nonzero()) + own
    embeds, rows = layout_of(model, batch)[0][0], CELLS**2
    assert ImageLayout.of(model).positions(size) == own + rows
    assert len(embeds) == len(before) + rows
    assert torch.equal(embeds[:behind], before[:behind])
    assert torch.equal(embeds[behind + rows :], before[behind:])
    crop = batch["images"][0][:1]  # the first crop shows all of the image
    tower = model.get_vision_tower()
    states = tower.vision_tower(crop, output_hidden_states=True).hidden_states
    part = model.get_model().region_aggregator
    of_whole = part([states[layer][0, 1:] for layer in LAYERS], torch.tensor([0, rows]))  # (P, D)
    torch.testing.assert_close(embeds[behind : behind + rows], of_whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_labels_and_masks_of_appended_rows(tiled: Loaded) -> None:
    model = tiled[1]
    put(model, appended=True)
    batch = batch_of(tiled, [ask_for(smooth(SIZES[0]), [BOX]), Query(smooth(SIZES[1]), "What is it?")])
    ids = batch["input_ids"]
    labels = ids.masked_fill(ids < 0, IGNORE)
    _, _, mask, _, embeds, found = model.prepare_inputs_labels_for_multimodal(**{**batch, "labels": labels})
    for row in range(2):
        kept = found[row][found[row] != IGNORE]
        assert torch.equal(kept, labels[row][batch["attention_mask"][row] & (labels[row] != IGNORE)])
    assert mask.shape == found.shape == embeds.shape[:2]
    assert mask.dtype == batch["attention_mask"].dtype


def test_rows_that_truncation_cuts_are_an_error(tiled: Loaded) -> None:
    model = tiled[1]
    put(model, appended=True)
    batch = batch_of(tiled, [ask_for(smooth(SIZES[0]), [])])
    model.config.tokenizer_model_max_length = 60
    with pytest.raises(RegionError, match="tokenizer_model_max_length"):
        batch_of(tiled, [ask_for(smooth(SIZES[0]), [])])
    with pytest.raises(RegionError, match=r"rows behind image\(s\) \[0\] of the batch are cut off"):
        layout_of(model, batch)


def test_every_part_gets_a_gradient_from_a_batch_without_an_image(tiled: Loaded, mode: bool) -> None:
    """Its blank image runs through the tower, and the aggregator behind it: no rank waits for the others."""
    model = tiled[1].train()
    part = put(model, mode)
    batch = batch_of(tiled, [Query(smooth(SIZES[0]), "What is it?")])
    ids = torch.tensor([[1, 5, 6, 7]])
    blank = {**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids), "regions": [None]}
    layout_of(model, blank)[0].sum().backward()
    assert all(one.grad is not None and not one.grad.any() for one in part.parameters())


@torch.no_grad()
def test_the_tower_runs_once(tiled: Loaded, mode: bool) -> None:
    model = tiled[1]
    put(model, mode)
    runs: list[int] = []
    handle = model.get_vision_tower().vision_tower.register_forward_hook(lambda *_: runs.append(1))
    model.generate(**_for_generate(batch_of(tiled, [ask_for(smooth(SIZES[0]), [BOX])])), max_new_tokens=3)
    handle.remove()
    assert len(runs) == 1


@torch.no_grad()
def test_answers_and_their_scores_are_the_same_with_and_without_a_cache(tiled: Loaded, mode: bool) -> None:
    model = tiled[1]
    put(model, mode)
    batch = _for_generate(batch_of(tiled, [ask_for(smooth(SIZES[0]), [BOX]), Query(smooth(SIZES[1]), "What is it?")]))
    options = {"max_new_tokens": 4, "output_scores": True, "return_dict_in_generate": True}
    fast, slow = (model.generate(**batch, **options, use_cache=cache) for cache in (True, False))
    assert torch.equal(fast.sequences, slow.sequences)
    assert len(fast.scores) == len(slow.scores) > 1  # the first has nothing in its cache
    for one, other in zip(fast.scores, slow.scores, strict=True):
        assert (one - other).abs().max() < 2e-5


def test_a_cache_of_the_tower_keeps_its_layers(tiled: Loaded) -> None:
    model = tiled[1]
    read = LlavaVisionPass(model, None).layers
    put(model, appended=False).layers = (3, 2, 0)
    assert LlavaVisionPass(model, None).layers == sorted({*read, 3, 2, 0})


def test_a_registered_tower_is_refused_by_name(tiled: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiled[1]
    put(model, appended=False)
    batch = batch_of(tiled, [ask_for(smooth(SIZES[0]), [])])
    monkeypatch.setattr(model.get_vision_tower(), "feature_maps", lambda output: [], raising=False)
    with pytest.raises(ValueError, match=r"the registered tower .* shows maps of its own"):
        layout_of(model, batch)


def _for_generate(batch: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in batch.items() if value is not None}
    return {"inputs": kept.pop("input_ids"), **kept}
