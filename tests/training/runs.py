"""A training run in this process: its command line, and its trainer afterwards."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.hosts.llava import compat
from tests.tiny import TINY_REGIONCLIP

compat.prepare_training()

from pvit_ext.train import main  # noqa: E402
from pvit_ext.training.llava.host import LlavaHost  # noqa: E402


def flags(checkpoint: Path, data: Path, output: Path, **changed: Any) -> list[str]:
    values: dict[str, Any] = {
        "model_name_or_path": checkpoint, "version": "v1", "data_path": data, "image_folder": data.parent,
        "vision_tower": checkpoint / "tower", "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
        "mm_use_im_patch_token": False, "image_aspect_ratio": "pad", "output_dir": output, "num_train_epochs": 1,
        "region_encoder_options": json.dumps(TINY_REGIONCLIP), "per_device_train_batch_size": 4, "learning_rate": 1e-2,
        "warmup_ratio": 0.03, "lr_scheduler_type": "cosine", "model_max_length": 512, "report_to": "none",
        "save_strategy": "no", "disable_tqdm": True,
    }  # fmt: skip
    return [word for key, value in (values | changed).items() for word in (f"--{key}", str(value))]


def run(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> Any:
    """Train; returns the trainer as it was when the run exported its result."""
    seen: list[Any] = []
    export = LlavaHost.export

    def keep(host: Any, trainer: Any) -> None:
        items = [trainer.train_dataset[index] for index in range(len(trainer.train_dataset))]
        trainer.batch_of_all = trainer.data_collator(items)  # made while LLaVA's names are still rebound
        seen.append(trainer)
        export(host, trainer)

    monkeypatch.setattr(LlavaHost, "export", keep)
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # transformers 4 sets it by --bf16, and takes it from there
    main()
    return seen[0]


def of_host(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path, Path]:
    """What trains a model of the host that the parameter names (its ``flags`` and ``run``), a checkpoint, and records.

    Args:
        request: of a fixture whose parameters are ``llava`` and ``transformers``.
        tmp_path: where a checkpoint of transformers and its records go.
    """
    if request.param == "llava":
        return sys.modules[__name__], request.getfixturevalue("llava_checkpoint"), request.getfixturevalue("data")
    from tests.training import test_transformers_host as given

    return given, given.save_stock("llava", tmp_path / "stock"), given.write_records(tmp_path / "data")
