"""Models whose region tensors no initialisation gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints import config, load, randomize


@pytest.fixture
def embedded(llava_checkpoint: Path) -> Any:
    torch.manual_seed(1)
    return randomize(load(llava_checkpoint, region_config=config()))


@pytest.fixture
def named(llava_checkpoint: Path, regionclip_weights: Path) -> Any:
    return randomize(load(llava_checkpoint, region_config=config(weights=str(regionclip_weights))))
