"""A folder of images with records, and files of maps that hold few of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pvit_ext.data.cache import writer
from tests.data.cache.jobs import TURNS, record


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six images, one of them twice, one upright by its EXIF alone, and one without a region."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(7):
        pixels = np.random.RandomState(number).randint(0, 255, (60 + 10 * (number % 3), 90, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        exif = image.getexif()
        exif[0x0112] = 6 if number == 2 else 1
        image.save(folder / f"{number}.png", exif=exif)
    records = [record(f"{number}.png") for number in (3, 0, 1, 2, 4, 5, 0)]
    records.append({"image": "6.png", "conversations": [{"from": "human", "value": "<image>\nhi"}, TURNS[1]]})
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    return path


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two maps or so in a file."""
    monkeypatch.setattr(writer.Plan.shards, "__defaults__", (8000,))
