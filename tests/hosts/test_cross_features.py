"""Cross layers and the cross-attention encoder through a model of each host, on each kind of device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity

from pvit_ext import RegionConfig
from pvit_ext.ops import varlen_attention as attention
from pvit_ext.ops.varlen_attention import FLASH_ATTN, SDPA, TORCH_VARLEN
from tests.hosts.tiny_hosts import MIXED, TinyHost, batch_of, logits
from tests.ops.attention_sets import names_run

CONFIG = RegionConfig("cross_attention", encoder_options={"heads": 2, "head_dim": 32}, cross_layers=1)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def placed(value: Any, device: str, dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, dtype if value.is_floating_point() else None)
    if isinstance(value, dict):
        return {key: placed(one, device, dtype) for key, one in value.items()}
    return [placed(one, device, dtype) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("device", DEVICES)
def test_half_precision_is_close_to_single(host: TinyHost, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the flash kernels ran, forward and backward."""
    chosen = set[str]()
    for name, kernel in attention._KERNELS.items():  # the language model's own attention may run flash kernels too
        monkeypatch.setitem(attention._KERNELS, name, lambda *args, n=name, k=kernel: (chosen.add(n), k(*args))[1])
    parts = host.attached(CONFIG)
    model, batch = parts.model, batch_of(parts, [*MIXED[:1], *MIXED[2:3]])
    for block in model.region_module.region_projector.cross_layers.blocks:
        torch.nn.init.ones_(block.gates.weight)
    expected = logits(model, batch)
    model.to(device, torch.bfloat16)
    given = placed(batch, device, torch.bfloat16)
    out: list[Tensor] = []

    def step() -> None:
        out.append(model(**given).logits)
        out[-1].float().square().mean().backward()

    ran = names_run(step, ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU)
    assert (out[-1].float().cpu() - expected).norm() < 0.1 * expected.norm()
    modules = model.region_module
    assert not [name for name, one in modules.named_parameters() if one.grad is None or not one.grad.isfinite().all()]
    assert chosen <= ({FLASH_ATTN, TORCH_VARLEN} if device == "cuda" else {SDPA})
    assert chosen
    if device == "cuda":
        assert any("flash_fwd" in name for name in ran), ran
        assert any("flash_bwd" in name for name in ran), ran
