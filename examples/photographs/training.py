"""Runs of ``python -m pvit_ext.train`` as a user starts them, one after another."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from examples.photographs import plugin, tower
from examples.photographs.arms import Arm
from examples.photographs.settings import Settings
from examples.quickstart.arms import Flags, run_logged

TEMPLATE = "chatml_direct"

_COMMON: Flags = {
    "version": TEMPLATE,
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "image_aspect_ratio": "pad",
    "num_train_epochs": 1,
    "weight_decay": 0.0,
    "warmup_ratio": 0.03,
    "lr_scheduler_type": "cosine",
    # On a CPU, with sequences this short, they cost a third of a step's time: the fused attention's backward pass
    # takes four times that of the plain formula, and drawing LoRA's dropout as long as a third of its products.
    "attn_implementation": "eager",
    "model_max_length": 1024,
    "save_strategy": "steps",
    "save_steps": 50,
    "save_total_limit": 1,
    "logging_steps": 5,
    "dataloader_num_workers": 0,
    "report_to": "none",
}


class Trainer:
    """The stages; each run passes once over a file that was drawn for it, so that a run's length is its file's.

    Args:
        images: folder that records are relative to.
        settings: rates and sizes.
        seed: of the runs.
    """

    def __init__(self, images: Path, settings: Settings, seed: int) -> None:
        self.images, self.settings, self.seed = images, settings, seed

    def tags(self, language: Path, data: Path, output: Path) -> None:
        """Stage 0: mm_projector learns to describe whole photographs."""
        own: Flags = {
            "stage": "finetune",
            "vision_tower": tower.NAME,
            "tune_mm_mlp_adapter": True,
            "learning_rate": self.settings.tags_rate,
        }
        self._run(language, data, output, own)

    def align(self, arm: Arm, base: Path, data: Path, output: Path) -> None:
        """Stage 1: the region modules alone."""
        own: Flags = {"stage": "align", "learning_rate": self.settings.align_rate, **arm.flags()}
        self._run(base, data, output, own)

    def finetune(self, arm: Arm, base: Path, data: Path, output: Path, aligned: Path | None) -> None:
        """Stage 2: LoRA on the language model, and mm_projector and region modules beside it."""
        regions: Flags = {"region_modules": aligned} if aligned else arm.flags()
        own: Flags = {
            "stage": "finetune",
            "lora_enable": True,
            "lora_r": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.0,
            "learning_rate": self.settings.finetune_rate,
            "mm_projector_lr": self.settings.finetune_rate,
        }
        self._run(base, data, output, own | regions)

    def _run(self, model: Path, data: Path, output: Path, own: Flags) -> None:
        flags: Flags = {
            "model_name_or_path": model,
            "data_path": data,
            "image_folder": self.images,
            "output_dir": output,
            "per_device_train_batch_size": self.settings.batch,
            "seed": self.seed,
            "bf16": self.settings.dtype == "bfloat16",
        }
        words = [word for key, value in (_COMMON | flags | own).items() for word in (f"--{key}", _word(value))]
        command = [sys.executable, "-u", "-m", "pvit_ext.train", "--plugin", plugin.__name__, *words]
        run_logged(command, output, f"training of {output}")
        for checkpoint in output.glob("checkpoint-*"):  # an interrupted run continues from its newest; this one is done
            shutil.rmtree(checkpoint)


def _word(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)
