"""The demo before a real, tiny model of each host: its answers are those of ask, and stop frees the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import pvit_ext
from pvit_ext import ImageFeatures, Query, Region
from pvit_ext.hosts.find import Loaded, host_of
from pvit_ext.serving.answer import Settings
from pvit_ext.serving.demo.answering import Answering
from pvit_ext.serving.demo.hints import Hints
from pvit_ext.serving.demo.pictures import Pictures
from pvit_ext.serving.engine import Engine
from tests.hosts.tiny_hosts import OSPREY, make
from tests.serving.image_file import encoded

pytestmark = pytest.mark.slow
LION = replace(OSPREY, lion_adapters=4, lion_tags="plain")


def noise() -> Image.Image:
    return Image.effect_noise((60, 40), 80).convert("RGB")


def opened(folder: Path, image: Image.Image) -> tuple[Pictures, str]:
    """The pictures of a demo, and the key of one that a page has opened."""
    pictures = Pictures(folder)
    return pictures, pictures.open(encoded(image), "image.png", "page")[0].key


def test_answers_are_those_of_ask(engine: Engine, loaded: Loaded, tmp_path: Path) -> None:
    image = noise()
    pictures, key = opened(tmp_path, image)
    answering = Answering(lambda query: engine.submit(query, Settings(max_tokens=8)), pictures)
    box, polygon = {"box": [3.25, 4.5, 30, 21]}, {"polygon": [[8, 8], [40.5, 9], [20, 30]]}
    first = {"question": "What is in <region>?", "regions": [box], "answer": "a cat"}
    turns = [first, {"question": "And in <region>?", "regions": [polygon]}]
    *_, last = answering.ask({"picture": key, "turns": turns, "name": "q"})
    regions = [Region.box(3.25, 4.5, 30, 21), Region.polygon([(8, 8), (40.5, 9), (20, 30)])]
    query = Query(image, "And in <region>?", regions, [("What is in <region>?", "a cat")])
    (want,) = pvit_ext.ask(loaded.model, loaded.tokenizer, loaded.processor, [query], max_new_tokens=8)
    assert last == {"text": want, "state": "complete"}
    assert want


def test_the_tower_sees_a_picture_once_for_all_turns(loaded: Loaded, tmp_path: Path) -> None:
    pictures, key = opened(tmp_path, noise())
    tower = host_of(loaded.model).chat(loaded.model, loaded.tokenizer, loaded.processor, None, None).vision_tower()
    assert tower is not None
    first = next(one for one in tower.seen.module.modules() if isinstance(one, (torch.nn.Conv2d, torch.nn.Conv3d)))
    passes: list[None] = []
    counting = first.register_forward_hook(lambda *_: passes.append(None))

    def conversation(features: ImageFeatures | None) -> tuple[list[str], int]:
        """Answers of three turns, and how often the tower saw the picture."""
        passes.clear()
        turns: list[dict[str, Any]] = []
        with Engine(loaded, features=features) as engine:
            answering = Answering(lambda query: engine.submit(query, Settings(max_tokens=4)), pictures)
            for left in (3, 8, 13):
                turns.append({"question": "What is in <region>?", "regions": [{"box": [left, 4, 30, 21]}]})
                *_, last = answering.ask({"picture": key, "turns": turns, "name": f"box at {left}"})
                turns[-1]["answer"] = last["text"]
        return [turn["answer"] for turn in turns], len(passes)

    features = ImageFeatures(2**24)
    answers, seen = conversation(None)
    assert seen == 3
    assert conversation(ImageFeatures(1))[0] == answers  # keeps nothing; a host notes once, on a blank, what is read
    assert conversation(features) == (answers, 1)
    assert 0 < features.bytes <= features.max_bytes
    counting.remove()


def test_stop_ends_a_running_answer(engine: Engine, tmp_path: Path) -> None:
    pictures, key = opened(tmp_path, Image.new("RGB", (60, 40)))
    answering = Answering(lambda query: engine.submit(query, Settings(max_tokens=1000)), pictures)
    stream = answering.ask({"picture": key, "turns": [{"question": "Say much.", "regions": []}], "name": "q"})
    next(stream)
    assert answering.stop("q")
    assert list(stream)[-1]["state"] == "stopped"
    assert engine.waiting == 0


def test_task_and_tags_reach_a_lion_model(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    model, tokenizer, processor = make("llava/llama", tmp_path_factory).talking(LION)
    hints = Hints.of(model.region_config)
    assert hints == Hints(("region", "image"), tags=True)
    image = noise()
    pictures, key = opened(tmp_path, image)
    question, box = "What is in <region>?", [3, 4, 30, 21]
    told = set()
    with Engine(Loaded(tokenizer, model, processor, 2048), features=ImageFeatures(2**24)) as engine:
        answering = Answering(lambda query: engine.submit(query, Settings(max_tokens=8)), pictures, hints)
        for task, tags in ((None, None), ("image", None), ("region", ["dog", "car"])):
            turns = [{"question": question, "regions": [{"box": box}]}]
            *_, last = answering.ask({"picture": key, "turns": turns, "name": "q", "task": task, "tags": tags})
            query = Query(image, question, [Region.box(*box)], task=task, tags=tags)
            (want,) = pvit_ext.ask(model, tokenizer, processor, [query], max_new_tokens=8)
            assert last == {"text": want, "state": "complete"}
            told.add(want)
    assert len(told) > 1
