"""Swap region modules, and check that a swap is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from pvit_ext.tools.swap import swap_encoder
from tests.checkpoints import OPTIONS, config

NARROWER = {"encoder_options": {**OPTIONS, "output_dim": 12}}


def swap(source: Path, values: Any, out: Path) -> Path:
    torch.manual_seed(3)
    swap_encoder(source, config(**values), out)
    return out


# Errors: each names the file and what to do, and leaves nothing behind


@contextmanager
def refused(folder: Path, error: type[Exception], message: str) -> Iterator[None]:
    before = sorted(folder.iterdir())
    with pytest.raises(error, match=message):
        yield
    assert sorted(folder.iterdir()) == before
