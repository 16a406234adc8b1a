"""Without regions, LLaVA with pvit-ext is LLaVA: the same bits in forward, generate, gradients and optimizer steps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from llava.model.builder import load_pretrained_model as llava_load
from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM as StockLlama
from llava.model.language_model.llava_mistral import LlavaMistralForCausalLM as StockMistral
from transformers import LlamaForCausalLM

import pvit_ext
from pvit_ext.hosts.llava import compat
from pvit_ext.hosts.llava.classes import LlavaLlamaForCausalLM, LlavaMistralForCausalLM
from tests.tiny import HALF_ON_CPU, TINY_REGIONCLIP, build_llava

IMAGE, IGNORE = -200, -100


@pytest.fixture(scope="module")
def mistral_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_llava(tmp_path_factory.mktemp("llava") / "mistral", family="mistral")


def load(model_class: Any, path: Path, **kwargs: Any) -> Any:
    model = model_class.from_pretrained(str(path), torch_dtype=torch.float32, **kwargs)
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


def assert_same_parameters(ours: Any, stock: Any, what: str = "data") -> None:
    mine = dict(ours.named_parameters())
    for name, parameter in stock.named_parameters():
        a, b = getattr(mine[name], what), getattr(parameter, what)
        assert (a is None) == (b is None), name
        assert a is None or torch.equal(a, b), name


@pytest.fixture(scope="module", params=["class", "attached", "mistral"])
def loaded_pair(request: pytest.FixtureRequest, llava_checkpoint: Path, mistral_checkpoint: Path) -> tuple[Any, Any]:
    """(stock model, ours) with the same weights."""
    if request.param == "mistral":
        return load(StockMistral, mistral_checkpoint), load(LlavaMistralForCausalLM, mistral_checkpoint)
    ours = attached(llava_checkpoint) if request.param == "attached" else load(LlavaLlamaForCausalLM, llava_checkpoint)
    return load(StockLlama, llava_checkpoint), ours


@pytest.fixture
def pair(loaded_pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """Copies, which a test may train."""
    return copy.deepcopy(loaded_pair)


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


@pytest.mark.skipif(compat.cache_name(LlamaForCausalLM.forward) == "cache", reason="stock LLaVA's forward lacks cache")
@pytest.mark.parametrize("variant", ["greedy", "sampled", "beams", "text only"])
def test_generate(pair: tuple[Any, Any], variant: str) -> None:
    inputs = batch()
    images = None if variant == "text only" else inputs["images"]
    ids, mask = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, 5), inputs["attention_mask"]
    options: dict[str, Any] = {"do_sample": variant == "sampled", "num_beams": 2 if variant == "beams" else 1}
    answers = []
    for model in pair:
        model.config.tokenizer_padding_side = "left"
        torch.manual_seed(0)
        prompt = ids if images is None else inputs["input_ids"]
        answers.append(
            model.generate(prompt, images=images, attention_mask=mask, max_new_tokens=8, pad_token_id=0, **options)
        )
    assert torch.equal(*answers)


@pytest.mark.parametrize("training", [False, True])
def test_gradients(pair: tuple[Any, Any], training: bool) -> None:
    losses = []
    for model in pair:
        model.train(training)
        loss = model(**batch()).loss
        loss.backward()
        losses.append(loss.detach())
    assert torch.equal(*losses)
    assert_same_parameters(pair[1], pair[0], "grad")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_three_optimizer_steps(pair: tuple[Any, Any], checkpointing: bool) -> None:
    for model in pair:
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        trained = [p for name, p in model.named_parameters() if p.requires_grad and ".region_" not in name]
        optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(**batch()).loss.backward()
            optimizer.step()
    assert_same_parameters(pair[1], pair[0])


def test_training_step_without_regions_runs_every_region_module(llava_checkpoint: Path) -> None:
    model = attached(llava_checkpoint).train()
    model(**batch()).loss.backward()
    for name, parameter in model.get_model().region_projector.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


@HALF_ON_CPU
def test_dummy_region_of_huge_tokens_leaves_half_precision_finite(llava_checkpoint: Path) -> None:
    model = attached(llava_checkpoint).train().half()
    with torch.no_grad():
        model.get_model().region_projector.delimiters.weight.fill_(60000.0)  # their sum overflows float16
    images = batch()["images"].half()
    assert torch.isfinite(model(**{**batch(), "images": images}).loss)


def test_builder_after_apply_gives_the_same_logits(llava_checkpoint: Path) -> None:
    stock = llava_load(str(llava_checkpoint), None, "llava", device="cpu")[1].float()
    with pvit_ext.patched():
        ours = llava_load(str(llava_checkpoint), None, "llava", device="cpu")[1].float()
    assert type(ours) is LlavaLlamaForCausalLM
    with torch.no_grad():
        assert torch.equal(stock(**batch()).logits, ours(**batch()).logits)
