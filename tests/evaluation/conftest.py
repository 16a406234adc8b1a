"""A small set of photographs with short answers, and a tiny checkpoint with regions of each host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pvit_ext

ANSWERS = ("A red cat.", "a dog", "A red cat", "the two digits", "dog")


def turns(number: int, count: int) -> list[dict[str, str]]:
    found = []
    for turn in range(count):
        question = "What is in <region>?" if turn else "<image>\nWhat is in <region>?"
        found += [
            {"from": "human", "value": question},
            {"from": "gpt", "value": ANSWERS[(number + turn) % len(ANSWERS)]},
        ]
    return found


@pytest.fixture(scope="session")
def own_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data.jsonl`` of 9 questions in 5 records on 3 images, beside its images."""
    folder = tmp_path_factory.mktemp("own")
    for number, size in enumerate([(60, 40), (30, 50), (200, 180)]):
        pixels = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    mask = np.zeros((40, 60), bool)
    mask[5:20, 10:40] = True
    Image.fromarray(mask).save(folder / "mask.png")
    boxes: list[Any] = [[3, 4, 20, 30], {"mask": "mask.png"}, [2, 2, 28, 40], [20, 20, 180, 170], [5, 5, 60, 70]]
    records: list[dict[str, Any]] = []
    for number, (image, indices) in enumerate([(0, (0, 1)), (1, (2,)), (2, (3, 4, 0)), (0, (0,)), (2, (4, 3))]):
        regions = [boxes[index] for index in indices]
        talk = turns(number, len(indices))
        records.append({"id": f"r{number}", "image": f"{image}.png", "conversations": talk, "regions": regions})
    (folder / "data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture(scope="session", params=["llava", "transformers"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with regions, of each host."""
    folder = tmp_path_factory.mktemp(request.param) / "tiny"
    torch.manual_seed(1)
    if request.param == "llava":
        source, options = str(request.getfixturevalue("llava_checkpoint")), {"layers": [-2, -1], "position_grid": 8}
    else:
        from tests.hosts.transformers.zoo import ZOO

        source, options = str(folder.parent / "stock"), {"layers": [-2, -1], "position_grid": 8}
        for part in ZOO["llava_pad"]():
            part.save_pretrained(source)
    config = pvit_ext.RegionConfig("osprey", encoder_options=options)
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(source, region_config=config, device="cpu")
    for name, parameter in model.named_parameters():  # at their start all answers are alike
        if parameter.ndim == 2 and "vision" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    if request.param == "llava":
        tokenizer.save_pretrained(folder)
    else:
        processor.save_pretrained(folder)
    return folder


@pytest.fixture
def evaluate(own_set: Path, tmp_path: Path) -> Any:
    """Run ``pvit-ext eval own`` into a folder of the test's, and return what ``metrics.json`` holds."""
    from pvit_ext import cli

    def call(*options: object, out: str = "out", task: str = "own", data: Path | None = None) -> dict[str, Any]:
        data = data or own_set / "data.jsonl"
        folders = ["--out", str(tmp_path / out)]
        folders += [] if "--image-folder" in options else ["--image-folder", str(own_set)]
        words = ["--traceback", "eval", task, "--data", str(data), *folders, *map(str, options)]
        assert cli.main(words) == 0
        found: dict[str, Any] = json.loads((tmp_path / out / "metrics.json").read_text())
        return found

    return call
