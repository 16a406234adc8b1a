"""Eight records with and without validation records, the output of a stage 1 run, and LLaVA's rebound names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvit_ext.hosts.llava import compat
from tests.training.records import record
from tests.training.runs import flags, run
from tests.training.tracked import BOX

compat.prepare_training()

from llava import conversation as llava_conversation  # noqa: E402
from llava.train import train as llava_train  # noqa: E402


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(8):
        pixels = np.random.RandomState(number).randint(0, 255, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def data(images: Path) -> Path:
    """Records with one region, two regions, an image only, and text only."""
    records = [record(number) for number in range(4)]
    records += [record(4, "Compare <region> with <region>.", [(5, 5, 40, 40), (50, 10, 80, 30)]), record(5)]
    records += [record(6, "Describe the image.", ()), record(7, "What is this?", (), image=False)]
    path = images / "train.json"
    path.write_text(json.dumps(records, indent=1))
    return path


@pytest.fixture(scope="session")
def stage1(llava_checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a stage 1 run that also kept a whole checkpoint."""
    output = tmp_path_factory.mktemp("stage1")
    with pytest.MonkeyPatch.context() as patch:
        run(patch, flags(llava_checkpoint, data, output, stage="align", save_strategy="steps", save_steps=2))
    return output


@pytest.fixture
def template(monkeypatch: pytest.MonkeyPatch):
    from pvit_ext.hosts.llava.region_token import tokenizer_region_token

    monkeypatch.setattr(llava_conversation, "default_conversation", llava_conversation.conv_templates["v1"])
    monkeypatch.setattr(llava_train, "tokenizer_image_token", tokenizer_region_token)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train.json`` and ``val.json`` with their images; wandb's settings, credentials and caches lie here too."""
    folder = tmp_path_factory.mktemp("world")
    for number in range(8):
        pixels = np.random.RandomState(number).randint(0, 255, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    records = [record(number) for number in range(5)] + [record(5, "Describe the image.", ())]
    records += [record(6, "<region> or <region>?", [BOX, BOX]), record(7, "What is this?", (), image=False)]
    (folder / "train.json").write_text(json.dumps(records))
    two_turns = record(1, "Compare <region> with <region>.", [BOX, (60, 5, 80, 50)])
    two_turns["conversations"] += [{"from": "human", "value": "And now?"}, {"from": "gpt", "value": "red | blue"}]
    validation = [record(0, regions=[BOX]), record(7, "No image?", (), image=False), two_turns, record(2), record(3)]
    (folder / "val.json").write_text(json.dumps(validation))
    return folder
