"""A frozen tower keeps its mode, its copies too; other towers of its class do not change."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pvit_ext.ops.frozen import FrozenInEval, keep_frozen_in_eval


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.norm(values)
        return found


def through_torch(tower: nn.Module) -> nn.Module:
    torch.save(tower, file := io.BytesIO())
    file.seek(0)
    found: nn.Module = torch.load(file, weights_only=False)
    return found


@pytest.fixture
def tower() -> Tower:
    made = Tower().requires_grad_(False)
    keep_frozen_in_eval(made)
    keep_frozen_in_eval(made)
    return made


def copied(tower: nn.Module) -> nn.Module:
    found: nn.Module = pickle.loads(pickle.dumps(tower))
    return found


@pytest.mark.parametrize("again", [lambda one: one, copy.copy, copy.deepcopy, copied, through_torch])
def test_it_stays_in_eval_mode_whoever_calls_train(tower: Tower, again: Callable[[nn.Module], nn.Module]) -> None:
    one = again(tower)
    assert type(one) is type(tower)
    nn.ModuleList([one]).train()
    assert one.train() is one
    assert not any(module.training for module in one.modules())
    for module in one.modules():
        module.train()
    values = torch.arange(8.0).view(2, 4)
    assert torch.equal(one(values), Tower().eval()(values))
    assert not any(module.training for module in one.modules())
    one.requires_grad_(True)
    assert all(module.training for module in one.train().modules())


def test_the_stock_class_and_its_name_stay(tower: Tower) -> None:
    assert str(type(tower)) == str(Tower)
    assert isinstance(tower, Tower)
    assert isinstance(tower, FrozenInEval)
    assert all(module.training for module in Tower().requires_grad_(False).train().modules())
    tower.load_state_dict(Tower().state_dict())
