"""A vision aggregator on a registered vision tower, which offers hidden layers of its own or is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pvit_ext
from pvit_ext import Query, Region, RegionConfig
from pvit_ext.adapters.lion.aggregator import aggregator_for, boundaries
from pvit_ext.tools.swap import swap_encoder
from tests.hosts.brightness import smooth
from tests.pyramid_tower import SIDE, WIDTHS, LayeredPyramidTower
from tests.tiny import build_llava

CELLS = (SIDE // 8) ** 2
TEXT = RegionConfig("text")
ADDED = replace(TEXT, lion_aggregator="added")


def checkpoint(folder: Path, tower: str) -> Path:
    build_llava(folder)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "mm_vision_tower": tower}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("layered") / "tiny", "test_layered_pyramid:7")


@pytest.fixture
def loaded(folder: Path) -> tuple[Any, Any, Any]:
    return pvit_ext.load_pretrained_model(str(folder), device="cpu")[:3]


def moved(model: Any) -> nn.Module:
    """Its aggregator, with other values than new ones have."""
    part: nn.Module = model.get_model().region_aggregator
    generator = torch.Generator().manual_seed(0)
    for parameter in part.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return part


def by_hand(model: Any, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Rows of the image without an aggregator (B, P, D), and the layers that it reads, late to early."""
    tower = model.get_vision_tower()
    maps = tower.vision_tower(pixels)
    image = model.get_model().mm_projector(maps[-1].flatten(2).transpose(1, 2))
    pooled = [F.avg_pool2d(one, one.shape[-1] // 4).flatten(2).transpose(1, 2) for one in reversed(maps)]
    return image, [F.pad(one, (0, WIDTHS[-1] - one.shape[2])).flatten(0, 1) for one in pooled]


@torch.no_grad()
@pytest.mark.parametrize("how", ["added", "appended"])
def test_its_rows_are_those_of_the_offered_layers(loaded: tuple[Any, Any, Any], how: str) -> None:
    tokenizer, model, processor = loaded
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    pvit_ext.attach(model, TEXT)
    before = model.encode_images(pixels)
    pvit_ext.attach(model, replace(TEXT, lion_aggregator=how))
    assert torch.equal(model.encode_images(pixels), before)
    part = moved(model)
    image, layers = by_hand(model, pixels)
    rows = part(layers, boundaries(2, CELLS)).unflatten(0, (2, CELLS))
    assert torch.equal(before, image)
    if how == "added":
        torch.testing.assert_close(model.encode_images(pixels), image + rows)
        assert (rows.abs().amax((1, 2)) > 0.1).all()
    else:
        prompt = torch.tensor([[1, -200, 5]]).repeat(2, 1)
        embeds = model.prepare_inputs_labels_for_multimodal(prompt, None, None, None, None, pixels)[4]
        torch.testing.assert_close(embeds[:, 1 + CELLS : 1 + 2 * CELLS], rows)
    query = Query(smooth((40, 20)), "What is in <region>?", [Region.box(2, 2, 20, 12)])
    assert len(pvit_ext.ask(model, tokenizer, processor, [query], max_new_tokens=1)) == 1


@torch.no_grad()
def test_swap_and_checkpoints_keep_it(folder: Path, tmp_path: Path) -> None:
    swap_encoder(folder, replace(ADDED, lion_aggregator_depths="1,0.1"), tmp_path / "swapped")
    tokenizer, model, *_ = pvit_ext.load_pretrained_model(str(tmp_path / "swapped"), device="cpu")
    assert moved(model).layers == (2, 0)
    pixels = torch.randn(1, 3, SIDE, SIDE)
    expected = model.encode_images(pixels)
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again = pvit_ext.load_pretrained_model(str(tmp_path / "saved"), device="cpu")[1]
    assert torch.equal(again.encode_images(pixels), expected)


def test_default_depths_read_each_of_three_layers() -> None:
    config = LayeredPyramidTower("test_layered_pyramid", None).config
    assert aggregator_for(config, 48, "0.95,0.74,0.49", False).layers == (2, 1, 0)
    assert aggregator_for(config, 48, "1,0", False).layers == (2, 0)
    del config.aggregator_heads
    with pytest.raises(ValueError, match=r"says aggregator_layers, aggregator_width: it has to say all of .*_heads"):
        aggregator_for(config, 48, "1,0", False)


def test_layers_of_another_number_width_or_grid_are_named(
    loaded: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, pixels = loaded[1], torch.zeros(1, 3, SIDE, SIDE)
    pvit_ext.attach(model, ADDED)
    tower = model.get_vision_tower()
    good = tower.hidden_layers(tower.vision_tower(pixels))
    for bad in (good[:2], [*good[:2], good[2][:, :9]], [good[0][:, :30], *good[1:]], [good[0][..., :2], *good[1:]]):
        monkeypatch.setattr(tower, "hidden_layers", lambda _, bad=bad: bad)
        with pytest.raises(ValueError, match=r"'test_layered_pyramid:7' gave .* by its config they are 3, each"):
            model.encode_images(pixels)


def test_a_tower_that_says_it_has_layers_and_writes_none_is_named(
    loaded: tuple[Any, Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(LayeredPyramidTower, "hidden_layers")
    with pytest.raises(ValueError, match=r"writes hidden_layers\(output\)"):
        pvit_ext.attach(loaded[1], ADDED)


@pytest.mark.parametrize("config", [{}, {"num_attention_heads": 4}])
def test_a_tower_that_offers_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, int]
) -> None:
    """Also one whose config is like CLIP's."""
    stock = LayeredPyramidTower.__init__

    def bare(self: Any, name: str, args: Any) -> None:
        stock(self, name, args)
        own = vars(self.config)
        for key in (
            "aggregator_layers",
            "aggregator_width",
            "aggregator_heads",
            *(["feature_widths"] if config else []),
        ):
            del own[key]
        own.update(config)

    monkeypatch.setattr(LayeredPyramidTower, "__init__", bare)
    source = checkpoint(tmp_path / "tiny", "test_layered_pyramid:7")
    model = pvit_ext.load_pretrained_model(str(source), device="cpu")[1]
    said = r"a registered vision tower writes hidden_layers\(output\), and says aggregator_layers, aggregator_width"
    with pytest.raises(ValueError, match=said):
        pvit_ext.attach(model, ADDED)
    with pytest.raises(ValueError, match=said):
        swap_encoder(source, ADDED, tmp_path / "out")
    assert not (tmp_path / "out").exists()
