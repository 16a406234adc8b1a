"""A run in which a trained tensor gets no gradient for a whole epoch says so and fails; zeros at the start are none."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import pvit_ext
from pvit_ext.encoders.base import RegionEncoder, RegionInputs
from pvit_ext.training import trainer as region_trainer
from pvit_ext.training.checkpointing import newest_complete
from pvit_ext.training.gradients import NoGradientError
from tests.samples import write_training_data
from tests.tiny import build_llava
from tests.training.runs import flags, main, run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_data(tmp_path_factory.mktemp("data"))


@pvit_ext.register_region_encoder("test_unused")
class PartlyUnused(RegionEncoder):
    """One layer is used, one never, one times zero."""

    name: ClassVar[str] = "test_unused"
    feature_dim = 4

    def __init__(self, config: Any, tower_config: Any = None) -> None:
        super().__init__()
        self.used, self.unused, self.zeroed = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, inputs: RegionInputs) -> Tensor:
        boxes = inputs.boxes_norm.to(self.used.weight.dtype)
        return (self.used(boxes) + 0 * self.zeroed(boxes))[:, None]


def test_the_newline_of_tiles_trains_where_there_are_tiles(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A LLaVA-1.6 trained on images as wholes would end here, with a tensor that nothing can reach."""
    base = build_llava(
        tmp_path / "base", mm_patch_merge_type="spatial_unpad", image_grid_pinpoints=[[28, 56], [56, 28]]
    )
    words = {"mm_patch_merge_type": "spatial_unpad", "per_device_train_batch_size": 2, "region_encoder": "osprey"}
    words["region_encoder_options"] = '{"position_grid": 8}'
    for aspect in ("pad", "anyres"):
        trainer = run(monkeypatch, flags(base, data, tmp_path / aspect, image_aspect_ratio=aspect, **words))
        assert trainer.state.global_step >= 3
        assert trainer.model.get_model().image_newline.requires_grad == (aspect == "anyres")


UNUSED = {"region_encoder": "test_unused", "region_encoder_options": "{}", "per_device_train_batch_size": 2}
NAMES = {f"model.region_encoder.{layer}.{kind}" for layer in ("unused", "zeroed") for kind in ("weight", "bias")}


def test_a_tensor_without_gradient_ends_the_run_after_an_epoch_and_is_named(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = flags(llava_checkpoint, data, tmp_path, stage="align", **UNUSED, num_train_epochs=2)
    with pytest.raises(NoGradientError, match=r"^4 of 9 trained tensors.*Saved after step 4.*--allow_no_gradient") as e:
        run(monkeypatch, words)
    assert all(name in str(e.value) for name in NAMES)
    assert newest_complete(tmp_path)[0] == tmp_path / "checkpoint-4"
    assert not (tmp_path / "region_modules.safetensors").exists()
    trainer = run(monkeypatch, [*words, "--allow_no_gradient", "True"])
    assert trainer.state.global_step == 8
    assert (tmp_path / "region_modules.safetensors").exists()
    printed = capsys.readouterr().out
    assert "resuming from" in printed
    assert "losses will not be" not in printed
    assert "allowed: 4 of 9 trained tensors got no gradient" in printed


@pytest.mark.slow
def test_a_run_that_ended_so_at_its_last_step_does_not_pass_when_it_is_started_again(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = flags(llava_checkpoint, data, tmp_path, stage="align", **UNUSED, save_strategy="steps", save_steps=1)
    for _ in range(2):
        with pytest.raises(NoGradientError, match=r"^4 of 9 trained tensors.*Saved after step 4.*--allow_no_gradient"):
            run(monkeypatch, words)
        assert not (tmp_path / "region_modules.safetensors").exists()
    run(monkeypatch, [*words, "--allow_no_gradient", "True"])
    assert (tmp_path / "region_modules.safetensors").exists()


def test_stage2_on_data_without_regions_says_that_the_region_projector_does_not_train(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gradients are zeros, not absent: every rank runs the modules on a dummy region."""
    path = data.with_name("plain.json")
    path.write_text(data.read_text().replace("in <region>", "here").replace('"regions": [[5, 5, 40, 40]], ', ""))
    with pytest.raises(NoGradientError, match=r"region_projector\.features\.weight"):
        run(monkeypatch, flags(llava_checkpoint, path, tmp_path, per_device_train_batch_size=2))


@pytest.mark.parametrize("extra", [{"stage": "align", "region_cross_layers": 1}, {"lora_enable": True, "lora_r": 4}])
def test_what_begins_behind_a_zero_is_no_false_alarm(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]
) -> None:
    """A gate of 0, a box embedding of zeros, a LoRA's B; the first step of the warm-up has a learning rate of 0."""
    seen: list[Any] = []
    save = region_trainer.RegionTrainer.save_state
    monkeypatch.setattr(region_trainer.RegionTrainer, "save_state", lambda self: (seen.append(self), save(self)))
    changed = {"region_box_embedding": True, "per_device_train_batch_size": 2, **extra}
    monkeypatch.setattr(sys, "argv", ["train", *flags(llava_checkpoint, data, tmp_path, **changed)])
    main()
    watch = seen[0].gradients
    assert (watch._steps, watch._done, watch.untouched) == (3, True, [])
    assert len(watch._names) > 4
    assert not any(parameter._backward_hooks for parameter in seen[0].model.parameters())


@pytest.mark.parametrize(("changed", "raises"), [({"learning_rate": 0.0}, False), ({"num_train_epochs": 2}, True)])
def test_too_few_steps_that_move_anything_are_no_evidence(
    llava_checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: Any, raises: bool
) -> None:
    """Two steps an epoch; without warm-up, the second epoch has the third."""
    values = {**UNUSED, "per_device_train_batch_size": 4, "warmup_ratio": 0.0, **changed}
    words = flags(llava_checkpoint, data, tmp_path, stage="align", **values)
    if raises:
        with pytest.raises(NoGradientError, match="Saved after step 4"):
            run(monkeypatch, words)
    else:
        assert run(monkeypatch, words).gradients.untouched == []


def test_the_hook_changes_no_gradient() -> None:
    from pvit_ext.training.gradients import _marking

    layer, seen = nn.Linear(2, 2), torch.zeros(2, dtype=torch.bool)
    layer(torch.ones(1, 2)).sum().backward()
    before = layer.weight.grad.clone()
    layer.zero_grad()
    layer.weight.register_hook(_marking(seen, 1))
    layer(torch.ones(1, 2)).sum().backward()
    assert torch.equal(layer.weight.grad, before)
    assert seen.tolist() == [False, True]


@pytest.mark.parametrize(("epoch", "found"), [(0, ["weight"]), (1.0, ["weight"]), (0.5, [])])
def test_an_epoch_that_was_resumed_in_its_middle_is_no_whole_one(epoch: float, found: list[str]) -> None:
    from pvit_ext.training.gradients import STEPS, GradientWatch

    watch, model = GradientWatch(), nn.Linear(2, 2, bias=False)
    args = SimpleNamespace(device=torch.device("cpu"), allow_no_gradient=False)
    state, control = SimpleNamespace(epoch=epoch), SimpleNamespace(should_save=False, should_training_stop=False)
    watch.on_train_begin(args, state, control, model=model)
    watch.on_epoch_begin(args, state, control)
    for _ in range(STEPS):
        watch.on_step_begin(args, state, control, optimizer=torch.optim.SGD(model.parameters(), 0.1))
        watch.on_step_end(args, state, control)
    watch.on_epoch_end(args, state, control)
    assert watch.untouched == found
    assert control.should_save == control.should_training_stop == bool(found)
    state.epoch = 1.0
    watch.on_epoch_begin(args, state, control)
    watch.on_epoch_end(args, state, control)
    assert watch.untouched == ["weight"]
