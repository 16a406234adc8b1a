"""A tiny LLaVA-1.6: sizes of images and their tiles, encoders on it, and what they see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import pvit_ext
from pvit_ext import Query, Region, RegionConfig
from pvit_ext.encoders.base import RegionInputs
from pvit_ext.hosts.llava.batch import build_prompt, collate
from pvit_ext.hosts.llava.chat import conversation
from tests.encoders.test_tower_encoders import LOCAL, blinded

SIDE, PATCH, CELLS = 56, 7, 8  # of a tile; the tiny tower reads 28 pixels, so its checkpoint is built anew here
PINPOINTS = [[56, 112], [112, 56], [112, 112], [168, 56]]
SIZES = [(96, 96), (180, 90), (90, 180), (333, 70)]  # 2x2, 2x1, 1x2 and 3x1 tiles
MERGES = ["flat", "spatial", "spatial_unpad"]
Loaded = tuple[Any, Any, Any]

ENCODERS: dict[str, dict[str, Any]] = {
    "test_tower_roi": {},
    "osprey": {"position_grid": 16, **LOCAL["osprey"]},
    "ferret": {"points": 96, "groups": [32, 8], "neighbors": [12, 6]},
    "gpt4roi": {"pool": 4, "tiles": True, **LOCAL["gpt4roi"]},
    "cross_attention": {"heads": 2, "head_dim": 8},
    "replay": {"grid": 4},
    "focal": {"context": 1.0, "least": 1, "shuffle": 1},
}


def give(loaded: Loaded, name: str, **options: Any) -> Any:
    """Attach an encoder, blind to where a region lies."""
    torch.manual_seed(0)
    pvit_ext.attach(loaded[1], RegionConfig(name, encoder_options={**ENCODERS.get(name, {}), **options}))
    return blinded(loaded[1].get_model().region_encoder)


def batch_of(loaded: Loaded, queries: Sequence[Query]) -> dict[str, Any]:
    tokenizer, model, processor = loaded
    prompts = [build_prompt(query, conversation(model), "q", model) for query in queries]
    batch = collate(model, tokenizer, processor, queries, prompts)
    return {"input_ids": batch.pop("inputs"), "position_ids": None, "past_key_values": None, "labels": None, **batch}


def seen_by_encoder(loaded: Loaded, queries: Sequence[Query]) -> tuple[RegionInputs, Tensor]:
    """What the encoder gets and gives (M, T, C), on its way through LLaVA's splice."""
    seen: list[Any] = []
    encoder = loaded[1].get_model().region_encoder
    handle = encoder.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        loaded[1].prepare_inputs_labels_for_multimodal(**batch_of(loaded, queries))
    handle.remove()
    return seen[0]


def ask_for(image: Any, regions: Sequence[Region]) -> Query:
    return Query(image, "Compare " + "<region>" * len(regions), list(regions))
