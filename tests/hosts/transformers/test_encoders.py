"""Every region encoder on transformers' own models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pvit_ext.hosts.base import ImageViews
from pvit_ext.hosts.transformers.batch import RegionBatch
from pvit_ext.regions.region import Region, RegionError
from pvit_ext.regions.view import View
from tests.hosts.transformers.inputs import IMAGES, NAMES, make_image, region_batch, with_regions
from tests.hosts.transformers.zoo_of_others import OTHERS

OPTIONS: dict[str, dict[str, Any]] = {
    "osprey": {"layers": [-2, -1], "position_grid": 8},
    "ferret": {"points": 16, "groups": [8, 4], "neighbors": [4, 4]},
    "gpt4roi": {"variant": "light", "layers": [-2, -1], "pool": 4, "rounds": 1},
    "replay": {"grid": 2},
    "cross_attention": {"tokens": 2, "layers": 1, "heads": 2, "head_dim": 16},
    "focal": {"shuffle": 2},
    "regionclip": {
        "layers": [1, 1, 1, 1],
        "width": 8,
        "heads": 4,
        "output_dim": 32,
        "pool": 4,
        "shortest_edge": 64,
        "longest_edge": 128,
    },
}
WITH_TEXT = ["text", "overlay"]
ANY_SIZE = ["pixtral", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "mistral3", "internvl", "glm4v"]
FAST = [("osprey", name) for name in NAMES]
PAIRS = [
    pytest.param(name, encoder, marks=() if name == "llava" or (encoder, name) in FAST else pytest.mark.slow)
    for name in [*NAMES, *OTHERS]
    for encoder in OPTIONS
    if not (encoder == "focal" and name in ANY_SIZE)
]
A, B = Region.box(20, 30, 70, 80), Region.polygon([(120, 90), (170, 95), (150, 130)])


def tokens_of(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    batch = dict(batch)
    parts = [batch.pop(f"region{name}") for name in ("s", "_sizes", "_views", "_extra")]
    with torch.no_grad():
        return model.eval().model.region_tokens(batch, RegionBatch.of(*parts))


@pytest.mark.parametrize(("name", "encoder"), PAIRS)
def test_trains_and_sees_its_region_alone_and_in_a_batch(name: str, encoder: str) -> None:
    crosses = int(encoder in ("osprey", "replay"))
    model, processor = with_regions(name, encoder, OPTIONS[encoder], cross_layers=crosses)
    first, second = (
        make_image(*size, seed).point(lambda value: value // 3) for seed, size in enumerate([(197, 140), (111, 190)])
    )
    texts = ["what is in <region> and <region> ?", "what is in <region> ?"]
    both = region_batch(model, processor, texts, [[A, B], [Region.point(40, 60)]], [first, second])
    model.train()(**both, labels=both["input_ids"]).loss.backward()
    modules = model.region_module
    assert not [n for n, p in modules.named_parameters() if p.requires_grad and (p.grad is None)]
    alone = region_batch(model, processor, texts[:1], [[A, B]], [first])
    dark = tokens_of(model, alone)
    torch.testing.assert_close(tokens_of(model, both)[0, -dark.shape[1] :], dark[0], atol=1e-4, rtol=0)
    pixels = np.array(first)
    pixels[30:80, 20:70] = 255
    lit = tokens_of(model, region_batch(model, processor, texts[:1], [[A, B]], [Image.fromarray(pixels)]))
    change = (lit - dark)[0].norm(dim=1).unflatten(0, (2, -1)).sum(1)
    assert change[0] > 1.2 * change[1]


@pytest.mark.parametrize("name", ANY_SIZE)
def test_focal_is_refused_where_the_tower_takes_any_size(name: str) -> None:
    with pytest.raises(ValueError, match=r"'focal'.* one size"):
        with_regions(name, "focal", OPTIONS["focal"])


@pytest.mark.parametrize("encoder", WITH_TEXT)
def test_encoders_without_tokens_need_no_regions_in_the_model(encoder: str) -> None:
    model, processor = with_regions("llava", encoder, {})
    batch = region_batch(model, processor, ["what", "where"], [None, None])
    model.train()(**batch, labels=batch["input_ids"]).loss.backward()
    sizes = [image.size for image in IMAGES]
    views = [ImageViews(View.resize(size, (28, 28))) for size in sizes]
    with pytest.raises(RegionError, match=f"'{encoder}' shows regions by text and pixels"):
        model(**batch, regions=[[A.resolve(sizes[0])], None], region_sizes=sizes, region_views=views)
