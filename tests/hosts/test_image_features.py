"""What keeps outputs of towers: its bound, the state of a tower, names of images, and threads."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pvit_ext import ImageFeatures
from pvit_ext.hosts.image_names import name_and_file
from pvit_ext.hosts.stored_vision import returning_output
from pvit_ext.hosts.tower_state import state_of
from tests.hosts.tiny_hosts import (
    HAS_TRANSFORMERS_HOST,
    WIDE,
)


@pytest.mark.parametrize("given", [0, -1, 1.5, True, "1"])
def test_bytes_are_a_positive_integer(given: Any) -> None:
    with pytest.raises(ValueError, match="give a number of bytes"):
        ImageFeatures(given)


def test_what_was_used_last_is_kept() -> None:
    features, made = ImageFeatures(10), []

    def get(key: str, size: int = 4) -> str:
        return features.get(key, lambda: made.append(key) or key, lambda _: size)  # type: ignore[func-returns-value]

    assert [get(key) for key in "abacab"] == [*"abacab"]
    assert made == [*"abcb"]
    assert (len(features), features.bytes, features.hits, features.misses) == (2, 8, 2, 4)
    get("large", 11)
    assert len(features) == 2
    features.clear()
    assert (len(features), features.bytes) == (0, 0)


def test_a_tower_is_another_after_any_change() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    found = [state_of(module)]
    assert state_of(module) == found[0]
    with torch.no_grad():
        module[0].weight.add_(1)
    found.append(state_of(module))
    module.load_state_dict(module.state_dict())
    found.append(state_of(module))
    module[1].running_mean.zero_()
    found.append(state_of(module))
    found.append(state_of(module.half()))
    found.append(state_of(module.float()))
    found.append(state_of(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))))
    later = (torch.float16,) if HAS_TRANSFORMERS_HOST else ()  # torch 2.0 has no autocast to it on CPUs
    for kind in (torch.bfloat16, *later):
        with torch.autocast("cpu", kind):
            found.append(state_of(module))
    assert len(set(found)) == len(found)


def test_names_follow_the_content(tmp_path: Path) -> None:
    WIDE.save(tmp_path / "a.png")
    os.link(tmp_path / "a.png", tmp_path / "b.png")
    data = (tmp_path / "a.png").read_bytes()
    names = {name_and_file(source)[0] for source in (tmp_path / "a.png", str(tmp_path / "b.png"), data)}
    assert len(names) == 1
    pixels = np.array(WIDE)
    assert name_and_file(WIDE)[0] == name_and_file(pixels)[0]
    pixels[0, 0, 0] ^= 1
    assert name_and_file(WIDE)[0] != name_and_file(pixels)[0]
    assert name_and_file(Image.new("RGB", (2, 8)))[0] != name_and_file(Image.new("RGB", (8, 2)))[0]


def test_outputs_are_returned_to_their_own_thread_alone() -> None:
    module, inside, done = nn.Identity(), threading.Event(), threading.Event()

    def other() -> Any:
        with returning_output(module, "other"):
            inside.set()
            done.wait(30)
            return module(torch.zeros(1))

    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(other)
        inside.wait(30)
        assert torch.equal(module(torch.ones(1)), torch.ones(1))
        with returning_output(module, "own"):
            assert module(torch.ones(1)) == "own"
            done.set()
            assert found.result() == "other"
            assert module(torch.ones(1)) == "own"
    assert "forward" not in module.__dict__
