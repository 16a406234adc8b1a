"""The example for TRL's SFTTrainer runs, trains the region modules alone, and writes what loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pvit_ext
from tests.hosts.transformers.inputs import OSPREY
from tests.hosts.transformers.zoo import ZOO
from tests.training.test_transformers_host import losses, save_stock, write_records


@pytest.mark.slow
def test_trl_trains_region_modules(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    from examples.trl_sft import train

    data, model = write_records(tmp_path / "data"), save_stock("llava", tmp_path / "model")
    config = pvit_ext.RegionConfig("osprey", encoder_options=OSPREY)
    options = {"max_steps": 8, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1}
    more = {"lr_scheduler_type": "constant", "use_cpu": True, "bf16": False, "save_strategy": "no"}
    out = tmp_path / "out"
    trainer = train(str(model), str(data), str(data.parent), str(out), config, **options, **more)
    assert losses(trainer)[-1] < losses(trainer)[0]
    trained = trainer.model.state_dict()
    stock, _ = ZOO["llava"]()
    for key, value in stock.state_dict().items():
        assert torch.equal(trained[key], value), key
    _, loaded, _, _ = pvit_ext.load_pretrained_model(str(out), device="cpu")
    for key, value in loaded.state_dict().items():
        assert torch.equal(trained[key], value), key
