"""A folder with the images of the tests' records."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    return tmp_path
