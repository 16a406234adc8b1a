"""What is frozen stays as it is, its buffers included, whoever switches the model to training mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import pvit_ext
from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from tests.samples import write_training_data
from tests.training.runs import flags, run


@pvit_ext.register_region_encoder("test_batch_norm")
class BatchNormTower(RegionEncoder):
    """A pre-trained tower whose statistics move in training mode."""

    name: ClassVar[str] = "test_batch_norm"
    frozen: ClassVar[bool] = True
    feature_dim = 4

    def __init__(self, config: Any, tower_config: Any = None) -> None:
        super().__init__()
        self.norm = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5))

    def forward(self, inputs: RegionInputs) -> Tensor:
        return self.norm(inputs.boxes_norm)[:, None]


class TrainedBatchNorm(BatchNormTower):
    frozen: ClassVar[bool] = False


def test_frozen_encoder_keeps_its_mode_and_another_follows() -> None:
    nested = nn.ModuleDict({"frozen": BatchNormTower(None), "trained": TrainedBatchNorm(None)})
    for holder in (nested, nested["frozen"], nested["trained"]):
        holder.train()
    assert not any(module.training for module in nested["frozen"].modules())
    assert all(module.training for module in nested["trained"].modules())
    assert nested["frozen"].train() is nested["frozen"]


@pytest.mark.parametrize("stage", ["align", "finetune"])
def test_two_steps_move_no_buffer_of_what_is_frozen(
    llava_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    data = write_training_data(tmp_path / "data")
    options = {"region_encoder": "test_batch_norm", "region_encoder_options": "{}", "region_jitter": 0}
    trainer = run(monkeypatch, flags(llava_checkpoint, data, tmp_path / "out", stage=stage, **options))
    assert trainer.state.global_step == 2
    fresh, trained = BatchNormTower(None), trainer.model.get_model().region_encoder
    for name, value in fresh.named_buffers():
        assert torch.equal(value, trained.get_buffer(name)), name
    tower = trainer.model.get_vision_tower()
    for holder in (trainer.model, trainer.model.get_model(), tower, trained):
        holder.train()
        assert not any(module.training for part in (trained, tower) for module in part.modules())
    assert trainer.model.lm_head.training
    for module in trainer.model.modules():
        module.train()
    assert not tower.training
    pixels = torch.zeros(1, 3, 28, 28)
    tower(pixels)
    trained(RegionInputs([], torch.zeros(0, dtype=torch.long), []))
    assert not any(module.training for part in (trained, tower) for module in part.modules())
    next(tower.parameters()).requires_grad_(True)
    trainer.model.train()
    assert all(module.training for module in tower.modules())
