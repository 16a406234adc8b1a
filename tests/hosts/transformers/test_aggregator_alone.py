"""The vision aggregator where a call has text alone, or images alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pvit_ext.regions.region import RegionError
from tests.hosts.tiny_hosts import WIDE
from tests.hosts.transformers.inputs import with_regions
from tests.hosts.transformers.test_appended_rows import parts_of


@pytest.mark.parametrize("how", ["added", "appended"])
@pytest.mark.parametrize(("encoder", "options"), [("osprey", None), ("text", {})])
def test_a_batch_of_text_runs_the_aggregator_and_changes_no_bit(
    encoder: str, options: dict[str, Any] | None, how: str
) -> None:
    """Every rank has to run every module in every step, and a model may be trained without our dataset."""
    model, _ = with_regions("llava", encoder, options, lion_aggregator=how)
    ids = torch.tensor([[1, 9, 12, 10], [1, 11, 9, 9]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    with torch.no_grad():
        still = model.eval()(**batch).logits
    out = model.train()(**batch)
    assert torch.equal(out.logits, still)
    out.loss.backward()
    gradients = [parameter.grad for parameter in model.region_aggregator.parameters()]
    assert all(one is not None and not one.any() for one in gradients)


def test_images_without_a_text_get_none_that_has_no_rows() -> None:
    """Gemma 3's processor writes one itself; others return pixels alone."""
    parts = parts_of("gemma3")
    with pytest.raises(RegionError, match=r"images were given without a text.*give text= with <start_of_image>"):
        parts.processor(images=[WIDE])
    assert "input_ids" not in parts_of("llava").processor(images=[WIDE])
