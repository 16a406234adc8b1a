"""A checkpoint with regions is LLaVA's: stock LLaVA loads it to the logits that it had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import llava.model.builder as builder
import pytest
import torch
from llava.model.language_model import llava_llama

STOCK_SCRIPT = """
import sys, torch
import llava.model.builder as builder
stock = builder.LlavaLlamaForCausalLM
model = builder.load_pretrained_model(sys.argv[1], None, "llava", device="cpu")[1].float()
assert type(model) is stock and stock.__module__ == "llava.model.language_model.llava_llama", type(model)
assert "pvit_ext" not in sys.modules
inputs = torch.load(sys.argv[2])
with torch.no_grad():
    torch.save(model(**inputs).logits, sys.argv[3])
import pvit_ext, pvit_ext.hosts.llava.classes
assert builder.LlavaLlamaForCausalLM is stock
"""


@pytest.fixture
def saved(loaded: Any, tmp_path: Path) -> Path:
    """A region checkpoint with its tokenizer."""
    tokenizer, model, _ = loaded
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def stock_logits(checkpoint: Path, inputs: dict[str, Any]) -> torch.Tensor:
    model = builder.load_pretrained_model(str(checkpoint), None, "llava", device="cpu")[1].float()
    assert type(model) is llava_llama.LlavaLlamaForCausalLM
    with torch.no_grad():
        return model(**inputs).logits


def text_and_image() -> dict[str, Any]:
    return {"input_ids": torch.tensor([[1, 5, -200, 9, 30]]), "images": torch.randn(1, 3, 28, 28)}


def test_region_checkpoint_is_a_llava_checkpoint(saved: Path, llava_checkpoint: Path) -> None:
    config, before = (json.loads((folder / "config.json").read_text()) for folder in (saved, llava_checkpoint))
    assert config["pvit_ext"]["encoder"] == "regionclip"
    assert {key: config[key] for key in before if key in config} == before
    inputs = text_and_image()
    assert torch.equal(stock_logits(saved, inputs), stock_logits(llava_checkpoint, inputs))


@pytest.mark.slow
def test_region_checkpoint_in_a_process_that_never_saw_pvit_ext(saved: Path, tmp_path: Path) -> None:
    inputs = text_and_image()
    torch.save(inputs, tmp_path / "inputs.pt")
    files = [str(saved), str(tmp_path / "inputs.pt"), str(tmp_path / "logits.pt")]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # as here: two threads add up in another order
    subprocess.run([sys.executable, "-c", STOCK_SCRIPT, *files], check=True, capture_output=True, env=one_thread)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), stock_logits(saved, inputs))
