"""Transformers' own models with regions on a GPU: everything lands where it is needed, in half precision too."""

from __future__ import annotations

import pytest
import torch

from tests.hosts.transformers.inputs import NAMES, region_batch, with_regions

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("encoder", ["osprey", "cross_attention", "replay"])
def test_forward_backward_and_generate(name: str, encoder: str) -> None:
    options = {"osprey": None, "cross_attention": {"tokens": 2, "layers": 1, "heads": 2, "head_dim": 16}}
    model, processor = with_regions(name, encoder, options.get(encoder, {"grid": 2}), cross_layers=1)
    batch = region_batch(model, processor)
    with torch.no_grad():
        want = model(**batch).logits
    model.to("cuda")
    moved = {key: value.to("cuda") if isinstance(value, torch.Tensor) else value for key, value in batch.items()}
    # By default cuDNN's float32 convolutions are TF32; and the first argument's default would turn cuDNN off.
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        torch.testing.assert_close(model(**moved).logits.cpu(), want, atol=2e-3, rtol=0)
    model.to(torch.bfloat16).train()
    moved["pixel_values"] = moved["pixel_values"].to(torch.bfloat16)
    model(**moved, labels=moved["input_ids"]).loss.backward()
    assert all(p.grad.isfinite().all() for p in model.region_module.parameters() if p.grad is not None)
    plain = {key: value for key, value in moved.items() if not key.startswith("region")}
    plain["input_ids"] = plain["input_ids"].masked_fill(plain["input_ids"] == model.model.region_host.token_id, 9)
    model(**plain, labels=plain["input_ids"]).loss.backward()
    model.eval().generate(**moved, max_new_tokens=3, do_sample=False, num_beams=2)
