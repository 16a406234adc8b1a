"""A tiny LLaVA-1.6."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import pvit_ext
from tests.hosts.brightness import see_brightness
from tests.hosts.llava.tiled import PINPOINTS, SIDE
from tests.tiny import build_llava


@pytest.fixture(scope="module")
def tiled_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """(tokenizer, model, processor) of a LLaVA-1.6 whose tower sees brightness."""
    folder = tmp_path_factory.mktemp("anyres") / "tiny"
    options = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": PINPOINTS, "tokenizer_model_max_length": 8192}
    build_llava(folder, tower_side=SIDE, mm_patch_merge_type="spatial_unpad", **options)
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(folder), device="cpu")
    see_brightness(model.get_vision_tower())
    return tokenizer, model, processor


@pytest.fixture
def anyres(tiled_model: tuple[Any, Any, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """The model; after the test it gets back the settings it was built with."""
    yield tiled_model
    config = tiled_model[1].config
    config.mm_patch_merge_type, config.tokenizer_model_max_length = "spatial_unpad", 8192
    config.image_aspect_ratio, config.tokenizer_padding_side = "anyres", "right"
