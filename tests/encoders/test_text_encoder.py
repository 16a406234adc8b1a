"""Coordinates as text: what stands in the prompt of ``ask`` and of training, and what the model refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pvit_ext
from pvit_ext import Query, Region, RegionConfig, RegionError
from pvit_ext.hosts.llava.batch import build_prompt, collate
from pvit_ext.hosts.llava.chat import conversation
from pvit_ext.regions.region import Size
from tests.checkpoints import save
from tests.tower_inputs import as_kind

SIZE = (200, 100)
BOX = (20, 10, 120, 60)


def written(region: Region, size: Size = SIZE, **options: Any) -> str:
    encoder = pvit_ext.build_region_encoder(RegionConfig("text", encoder_options=options))
    return encoder.describe([region.resolve(size)], [size])[0]


@pytest.mark.parametrize(
    ("region", "text"),
    [
        (Region.box(*BOX), "[0.100,0.100,0.600,0.600]"),
        (Region.box(0.1, 0.1, 0.6, 0.6, normalized=True), "[0.100,0.100,0.600,0.600]"),
        (as_kind("mask", BOX, SIZE), "[0.100,0.100,0.600,0.600]"),
        (as_kind("polygon", BOX, SIZE), "[0.100,0.100,0.600,0.600]"),
        (Region.point(50, 20), "[0.250,0.200]"),
        (Region.scribble([(50, 20), (100, 70)]), "[0.245,0.190,0.505,0.710]"),  # a stroke of 1 px radius
        (Region.box(-50, -50, 500, 500), "[0.000,0.000,1.000,1.000]"),
    ],
)
def test_kinds(region: Region, text: str) -> None:
    assert written(region) == text


def test_padded_space_is_that_of_the_square_around_the_image() -> None:
    assert written(Region.box(*BOX), space="padded") == "[0.100,0.300,0.600,0.550]"
    assert written(Region.box(*BOX), (200, 100), space="padded", decimals=2) == "[0.10,0.30,0.60,0.55]"
    assert written(Region.box(10, 20, 60, 120), (100, 200), space="padded") == "[0.300,0.100,0.550,0.600]"


@pytest.mark.parametrize("options", [{"space": "tower"}, {"decimals": 0}, {"places": 3}])
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="text"):
        written(Region.box(*BOX), **options)


@pytest.fixture
def with_text(llava_checkpoint: Path) -> Any:
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(
        str(llava_checkpoint), region_config=RegionConfig("text"), device="cpu"
    )
    return model, tokenizer, processor


def test_ask_equals_stock_llava_with_the_coordinates_in_the_question(with_text: Any, llava_checkpoint: Path) -> None:
    model, tokenizer, processor = with_text
    picture = Image.fromarray(np.random.RandomState(0).randint(0, 255, (100, 200, 3), dtype=np.uint8))
    asked = [
        Query(picture, "What is <region>?", [Region.box(*BOX)]),
        Query(picture, "And <Region>[0.25, 0.2, 0.5, 0.5]</Region>?", history=[("Is <region> red?", "a cat")]),
        Query(None, "Red?"),
    ]
    asked[1].regions = [Region.point(50, 20)]
    plain = [
        Query(picture, "What is [0.100,0.100,0.600,0.600]?"),
        Query(picture, "And [0.250,0.200,0.500,0.500]?", history=[("Is [0.250,0.200] red?", "a cat")]),
        Query(None, "Red?"),
    ]
    prompts = [build_prompt(query, conversation(model), "q", model) for query in asked]
    batch = collate(model, tokenizer, processor, asked, prompts)
    assert batch["regions"] == [[], [], []]
    stock = pvit_ext.load_pretrained_model(str(llava_checkpoint), device="cpu")[1]
    expected = collate(
        stock, tokenizer, processor, plain, [build_prompt(q, conversation(stock), "q", stock) for q in plain]
    )
    assert torch.equal(batch["inputs"], expected["inputs"])
    answers = pvit_ext.ask(model, tokenizer, processor, asked, max_new_tokens=4)
    assert answers == pvit_ext.ask(stock, tokenizer, processor, plain, max_new_tokens=4)


def test_model_refuses_regions_that_no_text_names(with_text: Any) -> None:
    ids, images = torch.tensor([[1, 5, -200, -300, 6]]), torch.zeros(1, 3, 28, 28)
    model = with_text[0]
    assert not list(model.get_model().region_projector.parameters())
    for call in (model, lambda **given: model.generate(given.pop("input_ids"), **given, max_new_tokens=2)):
        with pytest.raises(RegionError, match=r"'text' shows regions by text and pixels.*pvit_ext.ask"):
            call(input_ids=ids, images=images, image_sizes=[SIZE], regions=[[Region.box(*BOX)]])
        with pytest.raises(RegionError, match="<region>"):
            call(input_ids=ids, images=images, image_sizes=[SIZE])


@pytest.mark.parametrize(
    "asked", [{"box_embedding": True}, {"cross_layers": 2}, {"delimiters": True}, {"projector": "mlp2x_gelu"}]
)
def test_options_of_region_tokens_are_refused(asked: dict[str, Any], loaded: Any) -> None:
    """They have no token to apply to; unasked for, they are off."""
    ((name, value),) = asked.items()
    before = loaded[1].region_config
    with pytest.raises(ValueError, match=rf"'text' gives no features \(T = 0\), so {name}={value!r} cannot apply"):
        pvit_ext.attach(loaded[1], RegionConfig("text", **asked))
    assert loaded[1].region_config == before
    pvit_ext.attach(loaded[1], RegionConfig("text"))
    assert loaded[1].region_config.delimiters is False


def test_saves_and_loads(with_text: Any, tmp_path: Path) -> None:
    folder = save(with_text[0], tmp_path / "whole")
    again = pvit_ext.load_pretrained_model(str(folder), device="cpu")[1]
    assert again.region_config == with_text[0].region_config
    assert again.region_module.positions_per_region == 0
    pvit_ext.save_region_modules(again, tmp_path / "modules", base=str(folder))
    assert pvit_ext.load_pretrained_model(str(tmp_path / "modules"), device="cpu")[1].region_config.encoder == "text"


def test_a_model_can_come_from_features_and_go_back_to_them(loaded: Any) -> None:
    model, before = loaded[1], loaded[1].region_config
    pvit_ext.attach(model, replace(before, box_embedding=True))
    pvit_ext.attach(model, RegionConfig("text"))
    assert not model.region_config.box_embedding
    pvit_ext.attach(model, RegionConfig("regionclip", encoder_options=before.encoder_options))
    assert model.region_module.positions_per_region == 3
