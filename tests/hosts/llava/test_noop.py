"""Without regions, LLaVA with pvit-ext is LLaVA, by its own arguments and by its own loader too.

What holds on both hosts is in tests/hosts/test_noop.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from llava.model.builder import load_pretrained_model as llava_load
from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM as StockLlama

import pvit_ext
from pvit_ext.hosts.llava.classes import LlavaLlamaForCausalLM
from tests.tiny import TINY_REGIONCLIP

IMAGE, IGNORE = -200, -100


def load(model_class: Any, path: Path) -> Any:
    model = model_class.from_pretrained(str(path), torch_dtype=torch.float32)
    model.get_vision_tower().load_model()
    return model.eval()


def attached(path: Path) -> Any:
    """Stock classes loaded, then region modules attached."""
    model = load(StockLlama, path)
    return pvit_ext.attach(model, pvit_ext.RegionConfig("regionclip", encoder_options=TINY_REGIONCLIP))


def batch() -> dict[str, Any]:
    """One image, two images, text only; right-padded; labels on the second half."""
    generator = torch.Generator().manual_seed(3)
    rows = []
    for images, length in ((1, 14), (2, 17), (0, 9)):
        ids = torch.randint(3, 330, (length,), generator=generator)
        ids[0] = 1
        ids[2 : 2 + 3 * images : 3] = IMAGE
        rows.append(ids)
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.stack([torch.arange(ids.shape[1]) < len(row) for row in rows])
    labels = ids.masked_fill(~mask | (torch.arange(ids.shape[1]) < 8), IGNORE)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "images": torch.randn(4, 3, 28, 28, generator=generator),
    }


def without(inputs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in inputs.items() if key not in names}


@pytest.fixture(scope="module", params=["class", "attached"])
def pair(request: pytest.FixtureRequest, llava_checkpoint: Path) -> tuple[Any, Any]:
    """(stock model, ours) with the same weights."""
    ours = attached(llava_checkpoint) if request.param == "attached" else load(LlavaLlamaForCausalLM, llava_checkpoint)
    return load(StockLlama, llava_checkpoint), ours


@pytest.mark.parametrize("variant", ["all", "no mask", "no labels", "position_ids", "left", "list", "text only", "one"])
def test_forward(pair: tuple[Any, Any], variant: str) -> None:
    inputs = batch()
    if variant == "no mask":
        inputs = without(inputs, "attention_mask")
    elif variant == "no labels":
        inputs = without(inputs, "labels")
    elif variant == "position_ids":
        inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1])[None]
    elif variant == "list":
        inputs["images"] = list(inputs["images"])
    elif variant == "text only":
        inputs = {key: value[2:] for key, value in without(inputs, "images").items()}
    elif variant == "one":
        inputs = {key: value[:1] for key, value in inputs.items()}
    for model in pair:
        model.config.tokenizer_padding_side = "left" if variant == "left" else "right"
    with torch.no_grad():
        stock, ours = (model(**inputs) for model in pair)
    assert torch.equal(stock.logits, ours.logits)
    assert ("labels" not in inputs) or torch.equal(stock.loss, ours.loss)


def test_builder_after_apply_gives_the_same_logits(llava_checkpoint: Path) -> None:
    stock = llava_load(str(llava_checkpoint), None, "llava", device="cpu")[1].float()
    with pvit_ext.patched():
        ours = llava_load(str(llava_checkpoint), None, "llava", device="cpu")[1].float()
    assert type(ours) is LlavaLlamaForCausalLM
    with torch.no_grad():
        assert torch.equal(stock(**batch()).logits, ours(**batch()).logits)
