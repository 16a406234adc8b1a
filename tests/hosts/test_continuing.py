"""A swap or attach that names the encoder that is there: what it does not say stays, trained tensors and options."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pvit_ext
from pvit_ext import RegionConfig
from pvit_ext.tools.swap import swap_encoder
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST, LLAVA, Parts, TinyHost, load, save

OPTIONS = {"tokens": 8, "heads": 2, "head_dim": 4}
TRAINED = RegionConfig(
    "cross_attention", projector="mlp2x_gelu", box_embedding=True, cross_layers=1, delimiters=False,
    encoder_options=OPTIONS,
)  # fmt: skip
"""Of all that a model keeps, nothing is the default."""
HINT = RegionConfig("cross_attention", lion_tags="hint")

pytestmark = pytest.mark.parametrize(
    "host", [*LLAVA, *(["transformers/llava"] if HAS_TRANSFORMERS_HOST else [])], indirect=True
)


def trained(host: TinyHost) -> tuple[Parts, dict[str, Tensor]]:
    """A model whose region tensors have values that no initialisation gives, and copies of these."""
    parts = host.attached(TRAINED)
    generator = torch.Generator().manual_seed(5)
    for parameter in parts.model.region_module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return parts, parts.model.region_module.tensors()


def check(parts: Parts, before: dict[str, Tensor], config: RegionConfig) -> None:
    after = parts.model.region_module.tensors()
    assert after.keys() - before.keys() == {"region_hint.weight"}
    assert [name for name, value in before.items() if not torch.equal(after[name], value)] == []
    assert parts.model.region_config == replace(config, lion_tags="hint")


def test_attach(host: TinyHost, caplog: pytest.LogCaptureFixture) -> None:
    parts, before = trained(host)
    config = parts.model.region_config
    caplog.clear()
    pvit_ext.attach(parts.model, HINT, processor=parts.processor)
    check(parts, before, config)
    assert "starts anew" not in caplog.text


def test_swap(host: TinyHost, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts, before = trained(host)
    source = save(host, parts, tmp_path / "source")
    caplog.clear()
    with caplog.at_level(logging.INFO, "pvit_ext"):
        swap_encoder(source, HINT, tmp_path / "out")
    check(load(tmp_path / "out"), before, parts.model.region_config)
    assert "region encoder 'cross_attention' is kept" in caplog.text
    assert "starts anew" not in caplog.text
