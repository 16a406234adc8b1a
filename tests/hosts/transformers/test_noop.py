"""Without regions, a model of transformers' with region modules is the stock one, to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pvit_ext.regions.region import RegionError
from tests.hosts.transformers.inputs import (
    ALL,
    ALL_BUT_TWO_SLOW,
    EVERY,
    SPECIALS,
    plain_batch,
    region_batch,
    with_regions,
)


def pair(name: str) -> tuple[Any, Any, Any]:
    """(stock model, the same with regions, processor); they read no layer that stock does not."""
    ours, processor = with_regions(name, options={"layers": [-3, -2], "position_grid": 8})
    return ALL[name]()[0], ours, processor


def with_labels(batch: dict[str, Any]) -> dict[str, Any]:
    return batch | {"labels": batch["input_ids"].masked_fill(batch["input_ids"] < 8, -100)}


def assert_same_parameters(ours: Any, stock: Any, what: str = "data") -> None:
    mine = dict(ours.named_parameters())
    for name, parameter in stock.named_parameters():
        a, b = getattr(mine[name], what), getattr(parameter, what)
        assert (a is None) == (b is None), name
        assert a is None or torch.equal(a, b), name


@pytest.mark.parametrize("name", EVERY)
def test_forward_and_generate(name: str) -> None:
    stock, ours, processor = pair(name)
    batch = plain_batch(processor)
    with torch.no_grad():
        assert torch.equal(stock(**batch).logits, ours(**batch).logits)
        text = {key: batch[key] for key in ("input_ids", "attention_mask")}
        text["input_ids"] = text["input_ids"].masked_fill(text["input_ids"] < 8, 9)
        assert torch.equal(stock(**text).logits, ours(**text).logits)
    for options in ({"num_beams": 2}, {"do_sample": True}):
        answers = []
        for model in (stock, ours):
            torch.manual_seed(0)
            answers.append(model.generate(**batch, max_new_tokens=4, suppress_tokens=SPECIALS, **options))
        assert torch.equal(*answers)


@pytest.mark.parametrize("name", ALL_BUT_TWO_SLOW)
@pytest.mark.parametrize("training", [False, True])
def test_gradients(name: str, training: bool) -> None:
    stock, ours, processor = pair(name)
    batch, losses = with_labels(plain_batch(processor)), []
    for model in (stock, ours):
        model.train(training)
        loss = model(**batch).loss
        loss.backward()
        losses.append(loss.detach())
    assert torch.equal(*losses)
    assert_same_parameters(ours, stock, "grad")
    for part, parameter in ours.region_module.named_parameters():
        assert (parameter.grad is not None) == training, part
        assert not training or not parameter.grad.any(), part


@pytest.mark.parametrize("name", ALL_BUT_TWO_SLOW)
@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_three_optimizer_steps(name: str, checkpointing: bool | None) -> None:
    stock, ours, processor = pair(name)
    batch = with_labels(plain_batch(processor))
    for model in (stock, ours):
        model.train()
        if checkpointing is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": checkpointing})
            model.enable_input_require_grads()
        trained = [p for name, p in model.named_parameters() if not name.startswith("region_")]
        optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
    assert_same_parameters(ours, stock)


def test_dummy_region_of_huge_tokens_leaves_half_precision_finite() -> None:
    model, processor = with_regions("llava")
    model.train().to(torch.bfloat16)
    with torch.no_grad():
        model.region_projector.delimiters.weight.fill_(3e38)  # their sum overflows
    assert torch.isfinite(model(**with_labels(plain_batch(processor))).loss)


def test_placeholders_without_regions_are_an_error() -> None:
    model, processor = with_regions("llava")
    batch = region_batch(model, processor)
    plain = {key: value for key, value in batch.items() if not key.startswith("region")}
    for call in (model, model.generate):
        with pytest.raises(RegionError, match=r"sample 0: .* no regions were given"):
            call(**plain)
