"""A tiny LLaVA with regions, and the arguments that ask() gives to generate()."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import pvit_ext
from pvit_ext import RegionConfig
from tests.inference.queries import OPTIONS, Loaded


@pytest.fixture(scope="module")
def tiny(llava_checkpoint: Path) -> Loaded:
    torch.manual_seed(1)
    config = RegionConfig("regionclip", encoder_options=OPTIONS, box_embedding=True)
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(
        str(llava_checkpoint), region_config=config, device="cpu"
    )
    inner = model.get_model()
    for module in (inner.layers, inner.region_projector, inner.mm_projector):  # at their start all answers are alike
        for parameter in module.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.3)
    model.lm_head.weight.data[:259] = 0  # bytes, which decode to nothing readable
    return model, tokenizer, processor


@pytest.fixture
def calls(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every call of generate()."""
    seen: list[dict[str, Any]] = []
    generate = type(tiny[0]).generate

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(dict(kwargs))
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(type(tiny[0]), "generate", spy)
    return seen
