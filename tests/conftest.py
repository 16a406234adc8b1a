"""Fixtures shared by the suite: tiny checkpoints, made once per run, and a model per test."""

from __future__ import annotations

import gc
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

import pytest
import torch

from tests.tiny import TINY_REGIONCLIP, build_llava

os.fsync = lambda handle: None  # no test cuts the power, and a thousand waits for the disk are seconds
torch.set_num_threads(1)  # the models are tiny: a second thread costs more in waiting than it computes
gc.set_threshold(200_000, 50, 100)  # at Python's own 700, collecting is 15 % of the suite's time


def pytest_collection_finish() -> None:
    keep_imports()


def keep_imports() -> None:
    """Keep imported modules out of garbage collection, which accelerate runs at each start of a trainer."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def index_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep indexes of data files out of the user's cache folder."""
    os.environ["PVIT_EXT_CACHE"] = str(tmp_path_factory.mktemp("indexes"))


@pytest.fixture(scope="session")
def llava_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA checkpoint."""
    folder = build_llava(tmp_path_factory.mktemp("llava") / "tiny")
    keep_imports()  # of llava
    return folder


@pytest.fixture(scope="session")
def regionclip_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RegionCLIP checkpoint in the original layout, for the tiny tower of tests/checkpoints.py."""
    from pvit_ext.encoders.regionclip.encoder import build
    from pvit_ext.encoders.regionclip.weights import original_shapes
    from tests.checkpoints import config

    torch.manual_seed(11)
    tower = build(config()).backbone
    shapes = original_shapes({key: tuple(value.shape) for key, value in tower.state_dict().items()})
    tensors = {f"backbone.{key}": torch.rand(shape) * 0.1 + 0.05 for key, shape in shapes.items()}
    path = tmp_path_factory.mktemp("weights") / "regionclip_tiny.pth"
    torch.save({"model": tensors}, path)
    return path


@pytest.fixture
def loaded(llava_checkpoint: Path):
    """(tokenizer, model, image_processor) of the tiny checkpoint with a tiny random RegionCLIP attached."""
    import pvit_ext

    torch.manual_seed(1)
    config = pvit_ext.RegionConfig("regionclip", encoder_options=TINY_REGIONCLIP)
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(
        str(llava_checkpoint), region_config=config, device="cpu"
    )
    return tokenizer, model, processor
