"""A base that takes LoRA results with parts of LION, of both hosts, answers as before when none of them is active."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pvit_ext
from pvit_ext import RegionConfig
from pvit_ext.hosts.switching import Adapters
from tests.adapters.models import learned, save_result
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST, OSPREY, WIDE, Parts, TinyHost, load, logits

BOTH = ["llava/llama", *(["transformers/llava"] if HAS_TRANSFORMERS_HOST else [])]
pytestmark = pytest.mark.parametrize("host", BOTH, indirect=True)


def result(host: TinyHost, config: RegionConfig, folder: Path) -> Path:
    """A LoRA result, on the host's stock checkpoint, whose parts of LION have learned something."""
    wrapped, generator = learned(host.attached(config).model), torch.Generator().manual_seed(0)
    for parameter in (one for part in wrapped.region_module.lion.values() for one in part.parameters()):
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return save_result(wrapped, folder, host.folder())


def says(parts: Parts, host: TinyHost) -> Tensor:
    """To a question about an image, without regions."""
    if not host.pads_right:
        return logits(parts.model, parts.processor(text="<image> what is in", images=WIDE, return_tensors="pt"))
    side = parts.model.get_vision_tower().config.image_size
    images = torch.linspace(-1, 1, 3 * side * side).view(1, 3, side, side)
    batch: dict[str, Any] = {"images": images, "image_sizes": [(30, 20)]}
    return logits(parts.model, {"input_ids": torch.tensor([[1, 5, -200, 9, 30]]), **batch})


def test_a_base_without_regions_answers_as_before(host: TinyHost, tmp_path: Path) -> None:
    host.folder()
    config = replace(OSPREY, lion_adapters=4, lion_tags="hint", lion_aggregator="added")
    one, base = result(host, config, tmp_path / "one"), load(host.folder())
    before, adapters = says(base, host), Adapters(base.model, base.processor)
    adapters.add("one", one)
    assert torch.equal(says(base, host), before)
    adapters.use("one")
    assert (says(base, host) - before).abs().max() > 1e-2
    assert (says(base, host) - says(load(one), host)).abs().max() < 2e-5
    adapters.use(None)
    assert torch.equal(says(base, host), before)


def test_rows_behind_images_are_not_put_on_a_base_without_regions(host: TinyHost, tmp_path: Path) -> None:
    """They have no start at which they change nothing; where the base has some itself, it keeps them."""
    host.folder()
    config = replace(OSPREY, lion_aggregator="appended")
    one, base = result(host, config, tmp_path / "one"), load(host.folder())
    before, adapters = says(base, host), Adapters(base.model, base.processor)
    with pytest.raises(ValueError, match=r"one appends rows .* attach region modules with its options .* lion_aggreg"):
        adapters.add("one", one)
    assert torch.equal(says(base, host), before)
    pvit_ext.attach(base.model, config, processor=base.processor)
    before = says(base, host)
    adapters.add("one", one)
    assert torch.equal(says(base, host), before)
    adapters.use("one")
    assert (says(base, host) - says(load(one), host)).abs().max() < 2e-5
    adapters.use(None)
    assert torch.equal(says(base, host), before)
