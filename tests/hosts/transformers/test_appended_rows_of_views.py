"""Rows of the vision aggregator behind an image that has crops or frames beside its whole view."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pvit_ext.regions.region import RegionError
from tests.hosts.tiny_hosts import logits
from tests.hosts.transformers.inputs import IMAGES, plain_batch
from tests.hosts.transformers.test_appended_rows import embedded, parts_of, row_id
from tests.hosts.transformers.zoo import prompt


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen3_vl"])
def test_videos_have_none(name: str) -> None:
    parts = parts_of(name)
    batch, words = plain_batch(parts.processor, ["what is in the"], IMAGES[:1]), parts.tokenizer
    keep = batch["input_ids"][0] != row_id(parts)
    ids = batch["input_ids"][:, keep]
    pads = [words.convert_tokens_to_ids(f"<|{kind}_pad|>") for kind in ("image", "video")]
    ids = ids.masked_fill(ids == pads[0], pads[1])  # a video of one frame is such a sequence too
    seen = {"pixel_values_videos": batch["pixel_values"], "video_grid_thw": batch["image_grid_thw"]}
    kinds = {"mm_token_type_ids": 2 * batch["mm_token_type_ids"][:, keep]} if "mm_token_type_ids" in batch else {}
    runs: list[int] = []
    hook = parts.model.region_aggregator.register_forward_hook(lambda *_: runs.append(1))
    assert parts.model(input_ids=ids, attention_mask=torch.ones_like(ids), **seen, **kinds).logits.isfinite().all()
    hook.remove()
    assert not runs


@torch.no_grad()
@pytest.mark.slow
def test_pan_and_scan_has_rows_of_the_whole_image_alone() -> None:
    parts = parts_of("gemma3")
    crops: dict[str, Any] = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 8, "pan_and_scan_max_num_crops": 2}
    text, images = prompt(parts.processor, "where ?"), [IMAGES[0], IMAGES[0].rotate(180)]
    crops["pan_and_scan_min_ratio_to_activate"] = 1.0
    seen = []
    for given in ({}, crops):
        batch = parts.processor(images=[[one] for one in images], text=[text] * 2, return_tensors="pt", **given)
        with embedded(parts.model) as found:
            logits(parts.model, dict(batch))
        seen.append((batch["pixel_values"].shape[0], found[0][batch["input_ids"] == row_id(parts)]))
    assert seen[0][0] == 2 < seen[1][0]
    torch.testing.assert_close(seen[0][1], seen[1][1])


@torch.no_grad()
@pytest.mark.slow
def test_frames_of_internvl_are_crops_of_no_image() -> None:
    """They come before the image here, in the same pixels and by the same ids."""
    parts = parts_of("internvl")
    batch = plain_batch(parts.processor, ["what is in the"], IMAGES[:1])
    with embedded(parts.model) as seen:
        logits(parts.model, batch)
    frame = parts.tokenizer("<img>" + "<IMG_CONTEXT>" * 4 + "</img>", add_special_tokens=False)["input_ids"]
    ids = torch.cat([torch.tensor([frame]), batch["input_ids"]], 1)
    pixels = torch.cat([torch.rand_like(batch["pixel_values"][:1]), batch["pixel_values"]])
    with embedded(parts.model) as after:
        logits(parts.model, {"input_ids": ids, "pixel_values": pixels, "attention_mask": torch.ones_like(ids)})
    torch.testing.assert_close(after[0][:, len(frame) :], seen[0])
    with pytest.raises(RegionError, match=r"frames of a video that a model takes as images \(InternVL\)"):
        parts.model(input_ids=torch.tensor([frame]), pixel_values=pixels[:1])
