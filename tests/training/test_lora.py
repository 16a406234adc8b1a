"""LoRA in stage 2: what trains, and what its output loads as."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pvit_ext
from pvit_ext.train import main
from pvit_ext.training import trainer as region_trainer
from tests.training.runs import flags


@pytest.mark.parametrize("more", [{}, {"version": "v0", "mm_use_im_patch_token": True}], ids=["", "grown"])
def test_lora_trains_the_language_model_and_loads_back_merged(
    llava_checkpoint: Path, data: Path, stage1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Any
) -> None:
    """Also with LLaVA's defaults, by which the embedding grows; transformers 4 draws the new row anew at each load."""
    seen: list[Any] = []
    save = region_trainer.RegionTrainer.save_state

    def keep(trainer: Any) -> None:
        items = [trainer.train_dataset[index] for index in range(8)]
        seen.append((trainer.model, trainer.data_collator(items)))
        save(trainer)

    monkeypatch.setattr(region_trainer.RegionTrainer, "save_state", keep)
    own = {"stage": "finetune", "region_modules": stage1, "lora_enable": True, "lora_r": 4, "mm_projector_lr": 1e-3}
    own |= {"save_strategy": "steps", "save_steps": 2, **more}
    arguments = flags(llava_checkpoint, data, tmp_path / "lora", **own)
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    main()
    trained, batch = seen[0]
    lora = {name for name, parameter in trained.named_parameters() if "lora_" in name and parameter.requires_grad}
    assert len(lora) == 2 * 2 * 7  # A and B, two blocks, seven linear layers each
    assert all(".model.layers." in name for name in lora)
    others = {name for name, p in trained.named_parameters() if p.requires_grad} - lora
    assert {name.removeprefix("base_model.model.model.").split(".")[0] for name in others} == {
        "mm_projector",
        "region_projector",
    }

    with torch.no_grad():
        expected = trained.eval()(**copy.deepcopy(batch)).logits
    assert expected.any()
    for folder in (tmp_path / "lora", tmp_path / "lora" / "checkpoint-2"):
        _, model, _, _ = pvit_ext.load_pretrained_model(str(folder), device="cpu")
        model.get_vision_tower().half().float()
        with torch.no_grad():
            found = model(**copy.deepcopy(batch)).logits
        assert found.shape == expected.shape
        known = json.loads((llava_checkpoint / "config.json").read_text())["vocab_size"]
        torch.testing.assert_close(found[..., :known], expected[..., :known], rtol=1e-4, atol=1e-5)


def test_interrupted_lora_run_is_not_loaded_as_its_base(stage1: Path, tmp_path: Path) -> None:
    """LLaVA writes the adapter after the region modules."""
    for name in ("region_config.json", "region_modules.safetensors"):
        (tmp_path / name).write_bytes((stage1 / name).read_bytes())
    values = json.loads((tmp_path / "region_config.json").read_text())
    (tmp_path / "region_config.json").write_text(json.dumps(values | {"adapter": True}))
    with pytest.raises(FileNotFoundError, match=r"interrupted LoRA run.*adapter_config\.json"):
        pvit_ext.load_pretrained_model(str(tmp_path), device="cpu")
