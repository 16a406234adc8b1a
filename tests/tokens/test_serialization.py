"""Checkpoints by LLaVA's classes and their Auto class, and tensors that are hard to write.

What holds on both hosts is in tests/hosts/test_saving.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import pvit_ext
from pvit_ext.hosts.llava.classes import LlavaLlamaForCausalLM
from tests.checkpoints import config, load, logits, randomize, save


def test_output_loading_info(embedded: Any, tmp_path: Path) -> None:
    saved = save(embedded, tmp_path / "saved")
    loaded, info = LlavaLlamaForCausalLM.from_pretrained(str(saved), output_loading_info=True)
    assert torch.equal(logits(load(saved)), logits(with_tower(loaded)))
    assert not info["missing_keys"]
    assert not [key for key in info["unexpected_keys"] if "region" in key]


def with_tower(model: Any) -> Any:
    model.get_vision_tower().load_model()
    return model.eval()


def test_auto_class(embedded: Any, tmp_path: Path) -> None:
    saved = save(embedded, tmp_path / "saved")
    with pvit_ext.patched():
        model = AutoModelForCausalLM.from_pretrained(str(saved), torch_dtype=torch.float32)
    assert torch.equal(logits(with_tower(model)), logits(embedded))


def test_stock_base_under_a_region_config_warns(
    embedded: Any, llava_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """How LLaVA's builder loads LoRA checkpoints: the base's tensors, the output's config, then the other tensors."""
    saved = save(embedded, tmp_path / "saved")
    names = LlavaLlamaForCausalLM.config_class.from_pretrained(str(saved))
    model = LlavaLlamaForCausalLM.from_pretrained(str(llava_checkpoint), config=names)
    assert "random until they are loaded" in caplog.text
    assert not model.get_model().region_projector.box_embedding.weight.any()
    region = {key: value for key, value in embedded.state_dict().items() if ".region_" in key}
    model.load_state_dict(region, strict=False)
    assert torch.equal(logits(with_tower(model)), logits(embedded))


def test_partitioned_parameters_are_gathered(embedded: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ZeRO-3 marks them; what is written inside the context stays only with a modifier rank."""
    zero = pytest.importorskip("deepspeed").zero
    seen: list[tuple[set[int], int | None]] = []

    @contextmanager
    def gathered(parameters: list[Any], modifier_rank: int | None = None) -> Iterator[None]:
        seen.append(({id(parameter) for parameter in parameters}, modifier_rank))
        yield

    monkeypatch.setattr(zero, "GatheredParameters", gathered)
    parameters = list(embedded.get_model().region_projector.parameters())
    for number, parameter in enumerate(parameters):
        parameter.ds_id = number
    pvit_ext.save_region_modules(embedded, tmp_path)
    pvit_ext.load_region_modules(embedded, tmp_path)
    assert seen == [({id(parameter) for parameter in parameters}, rank) for rank in (None, 0)]


def test_tensors_of_another_memory_layout_are_saved(llava_checkpoint: Path, tmp_path: Path) -> None:
    """safetensors refuses them, and that at the end of a run."""
    model = randomize(load(llava_checkpoint, region_config=config()))
    weight = model.get_model().region_projector.features.weight
    weight.data = weight.data.t().contiguous().t()
    pvit_ext.save_region_modules(model, tmp_path, base=str(llava_checkpoint))
    assert torch.equal(load(tmp_path).get_model().region_projector.features.weight, weight)
