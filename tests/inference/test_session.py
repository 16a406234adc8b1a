"""A session of a model: what is kept of its images."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pvit_ext import ImageFeatures
from pvit_ext.hosts import precision
from pvit_ext.inference.session import Session, _say_slow, shared_images
from tests.inference.queries import Loaded


def test_a_host_that_does_not_say_how_its_tower_sees_is_asked_without_features() -> None:
    """The command keeps features by itself, so such a host could not be asked from a file."""
    chat: Any = SimpleNamespace()
    assert shared_images(chat, None, ImageFeatures(1)) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_on_a_cpu_without_it_is_said_to_be_slow_once(
    tiny: Loaded, dtype: torch.dtype, has: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: has)
    model, tokenizer, processor = tiny
    model = copy.deepcopy(model).to(dtype)
    _say_slow.cache_clear()
    for _ in range(2):
        Session(model, tokenizer, processor)
    expected = [] if has or dtype == torch.float32 else ["this CPU has no instructions for bfloat16"]
    assert [one[:41] for one in caplog.messages] == expected
