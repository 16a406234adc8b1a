"""Without regions, a model with region modules is the stock one: forward, generate, gradients and optimizer steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pvit_ext import RegionError
from tests.hosts.tiny_hosts import (
    BOX,
    EVERY,
    NEVER_WRITTEN,
    ON_EVERY_FAMILY,
    OSPREY,
    PLAIN,
    PLAIN_MIXED,
    WIDE,
    Parts,
    Query,
    TinyHost,
    batch_of,
    logits,
    plain,
    with_labels,
)
from tests.tiny import HALF_DTYPES


def pair(host: TinyHost, queries: list[Query] = PLAIN) -> tuple[Any, Parts, dict[str, Any]]:
    """(stock model, the same with regions, a batch without)."""
    ours = host.attached(OSPREY)
    return host.stock(), ours, plain(batch_of(ours, queries))


def assert_same_parameters(ours: Any, stock: Any, what: str = "data") -> None:
    mine = dict(ours.named_parameters())
    for name, parameter in stock.named_parameters():
        a, b = getattr(mine[name], what), getattr(parameter, what)
        assert (a is None) == (b is None), name
        assert a is None or torch.equal(a, b), name


@ON_EVERY_FAMILY
def test_forward(host: TinyHost) -> None:
    stock, ours, batch = pair(host)
    assert torch.equal(logits(stock, batch), logits(ours.model, batch))


@pytest.mark.parametrize("host", [name for name in EVERY if "paligemma" not in str(name)], indirect=True)
def test_text_alone(host: TinyHost) -> None:
    """PaliGemma's processor refuses it."""
    stock, ours, batch = pair(host, PLAIN_MIXED[-1:])
    assert torch.equal(logits(stock, batch), logits(ours.model, batch))


def test_images_of_several_prompts(host: TinyHost) -> None:
    stock, ours, batch = pair(host, PLAIN_MIXED)
    assert torch.equal(logits(stock, batch), logits(ours.model, batch))


@ON_EVERY_FAMILY
@pytest.mark.parametrize("options", [{"num_beams": 2}, {"do_sample": True}, {"do_sample": False}], ids=str)
def test_generate(host: TinyHost, options: dict[str, Any]) -> None:
    stock, ours, batch = pair(host)
    answers = []
    for model in (stock, ours.model):
        torch.manual_seed(0)
        answers.append(host.generate(model, batch, max_new_tokens=4, suppress_tokens=[*NEVER_WRITTEN], **options))
    assert torch.equal(*answers)


@pytest.mark.parametrize("training", [False, True])
def test_gradients(host: TinyHost, training: bool) -> None:
    """A training step without regions runs every region module."""
    stock, ours, batch = pair(host)
    losses = []
    for model in (stock, ours.model):
        model.train(training)
        loss = model(**with_labels(batch)).loss
        loss.backward()
        losses.append(loss.detach())
    assert torch.equal(*losses)
    assert_same_parameters(ours.model, stock, "grad")
    for part, parameter in ours.model.region_module.named_parameters():
        assert (parameter.grad is not None) == training, part
        assert not training or not parameter.grad.any(), part


@pytest.mark.parametrize("checkpointing", [None, False, True])
def test_three_optimizer_steps(host: TinyHost, checkpointing: bool | None) -> None:
    stock, ours, batch = pair(host)
    for model in (stock, ours.model):
        model.train()
        if checkpointing is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": checkpointing})
            model.enable_input_require_grads()
        trained = [p for name, p in model.named_parameters() if p.requires_grad and "region_" not in name]
        optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(**with_labels(batch)).loss.backward()
            optimizer.step()
    assert_same_parameters(ours.model, stock)


@HALF_DTYPES
def test_dummy_region_of_huge_tokens_leaves_half_precision_finite(host: TinyHost, dtype: torch.dtype) -> None:
    ours = host.attached(OSPREY)
    ours.model.train().to(dtype)
    with torch.no_grad():  # their sum overflows
        ours.model.region_module.region_projector.delimiters.weight.fill_(torch.finfo(dtype).max * 0.9)
    assert torch.isfinite(ours.model(**with_labels(plain(batch_of(ours, PLAIN)))).loss)


@pytest.mark.parametrize("training", [False, True])
def test_placeholders_without_regions_are_an_error(host: TinyHost, training: bool) -> None:
    ours = host.attached(OSPREY)
    batch = plain(batch_of(ours, [*PLAIN[1:], Query(WIDE, "what is in <region> ?", [BOX])]))
    with pytest.raises(RegionError, match=r"no regions were given|sample 1: 1 <region> in the prompt .*, 0 regions"):
        ours.model.train(training)(**batch)
    with pytest.raises(RegionError, match="no regions were given"):
        host.generate(ours.model, batch, max_new_tokens=1)
