"""Threads that share one model: each gets the answers it gets alone, however their calls interleave."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionModel

import pvit_ext
from pvit_ext import Query, Region, RegionConfig
from pvit_ext.encoders import focal
from pvit_ext.hosts.llava import model as model_module
from pvit_ext.hosts.llava.tower import capture_feature_maps
from pvit_ext.ops.hooks import own_hooks
from tests.encoders.test_focal import CLIP, inputs_of, made, tower_of
from tests.encoders.test_focal import batch as focal_batch

Loaded = tuple[Any, Any, Any]
WAIT = 60


@pytest.fixture(scope="module")
def tiny(llava_checkpoint: Path) -> Loaded:
    """An encoder on the tower's feature maps, and weights that tell prompts apart."""
    torch.manual_seed(1)
    config = RegionConfig("osprey", encoder_options={"position_grid": 8}, box_embedding=True)
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(
        str(llava_checkpoint), region_config=config, device="cpu"
    )
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "tower" not in name and "encoder" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.lm_head.weight.data[:259] = 0  # bytes, which decode to nothing readable
    return model, tokenizer, processor


def queries(seed: int) -> list[Query]:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    image, box = Image.fromarray(pixels), Region.box(3 + seed, 4, 20 + seed, 30)
    return [Query(image, "What is <region>?", [box]), Query(image, "Describe the image. What is <region> red?", [box])]


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Results of calls that run in a thread each."""
    results: list[Any] = [None] * len(calls)

    def run(number: int) -> None:
        try:
            results[number] = calls[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    return results


def test_a_call_that_ends_inside_another_leaves_its_padding_alone(
    tiny: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [pvit_ext.ask(*tiny, queries(seed), max_new_tokens=4) for seed in range(2)]
    generate, inside, ended = type(tiny[0]).generate, threading.Event(), threading.Event()

    def second() -> list[str]:
        answers = pvit_ext.ask(*tiny, queries(1), max_new_tokens=4)
        assert ended.is_set()
        return answers

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is first:  # its answers are made while the other call is inside ask
            other.start()
            assert inside.wait(WAIT)
        else:
            inside.set()
            assert ended.wait(WAIT)
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(type(tiny[0]), "generate", spy)
    first, found = threading.current_thread(), list[Any]()
    other = threading.Thread(target=lambda: found.append(second()))
    answers = pvit_ext.ask(*tiny, queries(0), max_new_tokens=4)
    ended.set()
    other.join(WAIT)
    assert [answers, *found] == expected


def test_no_call_writes_to_the_config(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, name: str, value: Any) -> None:
        raise AssertionError(f"config.{name} = {value!r}")

    before = tiny[0].config.to_dict()
    assert before["tokenizer_padding_side"] == "right"
    monkeypatch.setattr(type(tiny[0].config), "__setattr__", refuse)
    pvit_ext.ask(*tiny, queries(0), max_new_tokens=1)
    assert tiny[0].config.to_dict() == before


def meeting(inner: Any) -> Any:
    """A context manager whose block two threads enter together and end together."""
    barrier = threading.Barrier(2)

    @contextmanager
    def context(*args: Any) -> Any:
        with inner(*args) as value:
            barrier.wait(WAIT)
            yield value
            barrier.wait(WAIT)

    return context


def test_calls_that_pass_the_tower_together_see_their_own_feature_maps(
    tiny: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [pvit_ext.ask(*tiny, queries(seed), max_new_tokens=4) for seed in range(2)]
    monkeypatch.setattr(model_module, "capture_feature_maps", meeting(capture_feature_maps))
    calls = [lambda seed=seed: pvit_ext.ask(*tiny, queries(seed), max_new_tokens=4) for seed in range(2)]
    assert together(*calls) == expected


def test_crops_that_pass_the_tower_together_keep_their_own_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    tower, encoder = tower_of(CLIPVisionModel(CLIP).eval()), made(gates=0.5)
    inputs = [inputs_of(encoder, tower, focal_batch(seed)) for seed in range(2)]

    def encode(number: int) -> Any:
        with torch.no_grad():
            return encoder(inputs[number])

    expected = [encode(number) for number in range(2)]
    assert not torch.equal(*expected)
    monkeypatch.setattr(focal, "own_hooks", meeting(own_hooks))
    found = together(lambda: encode(0), lambda: encode(1))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), found


def test_a_hook_that_goes_while_another_thread_calls_it_is_no_error() -> None:
    """torch then calls it without keyword arguments."""
    module, seen = torch.nn.Linear(2, 2), list[Any]()
    with own_hooks([(module, lambda args, kwargs, output: seen.append(output))]):
        (hook,) = module._forward_hooks.values()
        assert together(lambda: hook(module, (), torch.ones(2))) == [None]
        module(torch.ones(1, 2))
    assert len(seen) == 1
    assert not module._forward_hooks
