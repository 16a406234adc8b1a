"""Batches with regions for the tiny models of :mod:`tests.hosts.transformers.zoo`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pvit_ext
from pvit_ext.hosts.transformers.attach import attach
from pvit_ext.regions.region import Region
from tests.hosts.transformers.zoo import ZOO, prompt
from tests.hosts.transformers.zoo_of_others import OTHERS

OSPREY = {"layers": [-2, -1], "position_grid": 8}
QUESTIONS = ["what is in <region> ?", "which is larger <region> and <region> ?"]
REGIONS = [[Region.box(10, 20, 40, 50)], [Region.box(3, 40, 20, 70), Region.polygon([(5, 5), (30, 10), (20, 40)])]]
SPECIALS = [0, 1, *range(3, 8)]
"""Ids of the zoo's special tokens but the end, which generation must not write."""
NAMES = ["llava", "llava_siglip", "pixtral", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
ALL = {**ZOO, **OTHERS}
EVERY = [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
"""All families; those of ``zoo_of_others`` only in the slow tests."""
ALL_BUT_TWO_SLOW = [
    name if name in ("llava", "qwen2_5_vl") else pytest.param(name, marks=pytest.mark.slow)
    for name in [*NAMES, *OTHERS]
]
"""All families; the fast tests run two of them."""
PLAIN = ["what is in the", "where is a cat and a dog ?"]


def make_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


IMAGES = [make_image(97, 60), make_image(41, 90, 1)]


def with_regions(name: str, encoder: str = "osprey", options: dict[str, Any] | None = None, **config: Any) -> Any:
    """(model, processor) of the zoo with a region encoder attached."""
    model, processor = ALL[name]()
    torch.manual_seed(1)
    options = dict(OSPREY if options is None else options)
    if name == "glm4v" and options.get("layers") == [-2, -1]:  # its last layer is merged
        options["layers"] = [-3, -2]
    chosen = pvit_ext.RegionConfig(encoder, encoder_options=options, **config)
    return attach(model, chosen, processor=processor).eval(), processor


def plain_batch(processor: Any, texts: Sequence[str] = PLAIN, images: Sequence[Image.Image] = IMAGES) -> dict[str, Any]:
    """A batch without regions, one image a text."""
    texts = [prompt(processor, text) for text in texts]
    batch = dict(processor(images=[[image] for image in images], text=texts, return_tensors="pt", padding=True))
    batch.pop("labels", None)  # PaliGemma's
    return batch


def region_batch(
    model: Any,
    processor: Any,
    texts: Sequence[str] = QUESTIONS,
    regions: Sequence[Sequence[Region] | None] = REGIONS,
    images: Sequence[Image.Image] = IMAGES,
) -> dict[str, Any]:
    """A batch with one image and any number of regions a text."""
    texts = [prompt(processor, text) for text in texts]
    nested = [[image] for image in images]
    batch = dict(processor(images=nested, text=texts, regions=regions, return_tensors="pt", padding=True))
    batch.pop("labels", None)
    found = (batch["input_ids"] == model.base_model.region_host.token_id).sum(1).tolist()
    assert found == [len(own or []) * model.region_module.positions_per_region for own in regions]
    return batch


def second_turn(
    model: Any, processor: Any, batch: dict[str, Any], sequences: torch.Tensor, image: Image.Image
) -> dict[str, Any]:
    """A batch of one prompt, its answer (both in ``sequences``) and a question about another region of its image."""
    question = "and <region> ?".replace("<region>", "<region>" * model.region_module.positions_per_region)
    tail = processor.tokenizer(question, return_tensors="pt", add_special_tokens=False)["input_ids"]
    ids = torch.cat([sequences, tail], 1)
    more = [[*batch["regions"][0], Region.box(3, 4, 60, 58).resolve(image.size)]]
    second = {**batch, "input_ids": ids, "attention_mask": torch.ones_like(ids), "regions": more}
    if "mm_token_type_ids" in batch:
        added = ids.shape[1] - batch["input_ids"].shape[1]
        second["mm_token_type_ids"] = torch.nn.functional.pad(batch["mm_token_type_ids"], (0, added))
    return second
