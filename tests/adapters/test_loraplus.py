"""LoRA+ gives B a rate of its own, and takes nothing from what else has one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from pvit_ext.adapters import loraplus
from tests.adapters.models import learned


def test_b_alone_leaves_the_groups_of_the_host(loaded: Any) -> None:
    model = learned(loaded[1])
    named = {name: one for name, one in model.named_parameters() if one.requires_grad}
    biases = {name: one for name, one in model.named_parameters() if "region_projector" in name and one.ndim == 1}
    assert biases
    groups = [
        {"params": list(named.values()), "weight_decay": 0.1},
        {"params": list(biases.values()), "weight_decay": 0.0},
        {"params": list(model.get_model().mm_projector.parameters()), "lr": 5e-5},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    loraplus.give_rate(optimizer, model, 16)
    rates = {
        id(one): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for one in group["params"]
    }
    assert {rates[id(one)] for name, one in named.items() if ".lora_B." in name} == {(16e-3, 0.1)}
    assert {rates[id(one)] for name, one in named.items() if ".lora_A." in name} == {(1e-3, 0.1)}
    assert {rates[id(one)] for one in biases.values()} == {(1e-3, 0.0)}
    assert {rates[id(one)][0] for one in model.get_model().mm_projector.parameters()} == {5e-5}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(rates)


def test_no_group_stays_empty() -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1.0)
    loraplus.split_groups(optimizer, {id(one) for one in layer.parameters()}, lambda rate: rate / 2)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5]


@pytest.mark.parametrize("name", ["adamw_torch_fused", "adamw_bnb_8bit", "paged_adamw_32bit", "paged_adamw_8bit"])
def test_every_adamw_goes(name: str) -> None:
    loraplus.check(16.0, "LORA", name, {})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((0.0, "LORA", "adamw_torch", {}), "--loraplus_lr_ratio 0: .*above 0"),
        ((float("nan"), "LORA", "adamw_torch", {}), "above 0"),
        ((16.0, "VERA", "adamw_torch", {}), "VERA has no matrices A and B"),
        ((16.0, "LORA", "adafactor", {}), "--optim adafactor has others: use adamw_torch"),
        ((16.0, "LORA", "adamw_torch", {"optimizer": {"type": "Adam"}}), "DeepSpeed config makes its own optimizer"),
    ],
)  # fmt: skip
def test_where_a_ratio_has_no_meaning(given: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        loraplus.check(*given)
