"""The demo before a real, tiny model of each host: its answers are those of ask, and stop frees the model."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

import pvit_ext
from pvit_ext import Query, Region
from pvit_ext.hosts.find import Loaded
from pvit_ext.serving.answer import Settings
from pvit_ext.serving.demo.answering import Answering
from pvit_ext.serving.demo.pictures import Pictures
from pvit_ext.serving.engine import Engine

pytestmark = pytest.mark.slow


def test_answers_are_those_of_ask(engine: Engine, loaded: Loaded, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    pictures = Pictures(tmp_path / "kept")
    image = Image.effect_noise((60, 40), 80).convert("RGB")
    image.save(tmp_path / "noise.png")
    picture, _ = pictures.open(tmp_path / "noise.png", "noise.png")
    answering = Answering(lambda query: engine.submit(query, Settings(max_tokens=8)), pictures)
    box, polygon = {"box": [3.25, 4.5, 30, 21]}, {"polygon": [[8, 8], [40.5, 9], [20, 30]]}
    first = {"question": "What is in <region>?", "regions": [box], "answer": "a cat"}
    turns = [first, {"question": "And in <region>?", "regions": [polygon]}]
    *_, last = answering.ask({"picture": picture.key, "turns": turns, "name": "q"})
    regions = [Region.box(3.25, 4.5, 30, 21), Region.polygon([(8, 8), (40.5, 9), (20, 30)])]
    query = Query(image, "And in <region>?", regions, [("What is in <region>?", "a cat")])
    (want,) = pvit_ext.ask(loaded.model, loaded.tokenizer, loaded.processor, [query], max_new_tokens=8)
    assert last == {"text": want, "state": "complete"}
    assert want


def test_stop_ends_a_running_answer(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    pictures = Pictures(tmp_path / "kept")
    Image.new("RGB", (60, 40)).save(tmp_path / "black.png")
    picture, _ = pictures.open(tmp_path / "black.png", "black.png")
    answering = Answering(lambda query: engine.submit(query, Settings(max_tokens=1000)), pictures)
    stream = answering.ask({"picture": picture.key, "turns": [{"question": "Say much.", "regions": []}], "name": "q"})
    next(stream)
    assert answering.stop("q")
    assert list(stream)[-1]["state"] == "stopped"
    assert engine.waiting == 0
