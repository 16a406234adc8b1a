"""What a method trains is saved without the base, and loads to the same logits, merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pvit_ext.adapters.tensors import adapter_names, adapter_parameters
from pvit_ext.training import lora_checkpoint
from pvit_ext.training.llava.host import LlavaHost
from pvit_ext.training.stages import parameter_table
from tests.adapters.models import learned, logits
from tests.checkpoints import load

VERA = '{"peft_type": "VERA", "r": 8}'
IA3 = '{"peft_type": "IA3", "feedforward_modules": ["down_proj"]}'
OFT = '{"peft_type": "OFT", "oft_block_size": 16}'


@pytest.mark.parametrize(
    "given",
    [*({"lora_method": name} for name in ("lora", "rslora", "dora", "pissa", "olora"))]
    + [{"lora_options": options} for options in (VERA, IA3, OFT)],
    ids=["lora", "rslora", "dora", "pissa", "olora", "vera", "ia3", "oft"],
)
def test_reloads_merged_under_another_seed(loaded: Any, tmp_path: Path, given: dict[str, Any]) -> None:
    torch.manual_seed(4)
    base = loaded[1]
    model = learned(base, **given)
    lora_checkpoint.save_adapter(model, str(tmp_path), True)
    torch.manual_seed(77)
    found = load(tmp_path)
    expected = logits(model)
    assert (logits(found) - expected).abs().max() < 2e-5
    assert (logits(base) - expected).abs().max() > 1e-2  # it had learned something
    assert not [name for name, _ in found.named_modules() if "lora_" in name]


def test_the_table_counts_all_of_an_adapter(loaded: Any) -> None:
    model = learned(loaded[1], lora_method="dora")
    counted = sum(parameter.numel() for parameter in adapter_parameters(model))
    assert any("magnitude" in name for name in adapter_names(model))
    lines = parameter_table(model, LlavaHost().parts(model)).splitlines()
    adapter = next(line for line in lines if line.startswith("LoRA"))
    assert adapter.split()[1:3] == [f"{counted:,}", f"{counted:,}"]
    total = sum(int(line[28:].split()[0].replace(",", "")) for line in lines[1:])
    assert total == sum(parameter.numel() for parameter in model.parameters())


def test_a_model_that_was_wrapped_elsewhere(loaded: Any) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(loaded[1], LoraConfig(r=2, target_modules=["q_proj"]))
    names = adapter_names(model)
    assert names == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert len(names) > 2
