"""Runs of ``python -m pvit_ext.train``: each passes once over a file that was drawn for it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

from examples.lion.arms import Arm
from examples.lion.forked import train
from examples.lion.settings import Settings
from examples.lion.stages import Record, deal, for_arm, stage_flags
from examples.lion.tags import tags_of
from examples.lion.tasks import REGION, TASKS, questions, record_of
from examples.quickstart.arms import Flags
from examples.quickstart.towers import Scenes
from pvit_ext.files import atomic_write

ENCODER: Flags = {"region_encoder": "replay", "region_encoder_options": json.dumps({"grid": 2})}
_COMMON: Flags = {
    "version": "v1",
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "image_aspect_ratio": "pad",
    "num_train_epochs": 1,
    "weight_decay": 0.0,
    "warmup_ratio": 0.03,
    "lr_scheduler_type": "cosine",
    "bf16": False,
    "model_max_length": 2048,
    "save_strategy": "no",
    "logging_steps": 10,
    "dataloader_num_workers": 0,
    "report_to": "none",
}


class Conversations:
    """What a seed trains on: every arm sees the same conversations about the same scenes, whatever its stages.

    Args:
        scenes: to draw from.
        settings: steps and batch.
        seed: of the draw.
    """

    def __init__(self, scenes: Scenes, settings: Settings, seed: int) -> None:
        self.scenes, self.settings, self.seed = scenes, settings, seed

    def align(self) -> list[Record]:
        """Region-level conversations for the region projector."""
        rng = random.Random(f"align-{self.seed}")
        chosen = [rng.randrange(len(self.scenes)) for _ in range(self.settings.align_steps * self.settings.batch)]
        return [self._record(number, REGION, rng, None) for number in chosen]

    def arm(self, arm: Arm) -> dict[str, list[Record]]:
        """An arm's conversations by task."""
        rng, each = random.Random(f"arm-{self.seed}"), self.settings.arm_steps * self.settings.batch // 2
        drawn = {}
        for task in TASKS:
            chosen = [rng.randrange(len(self.scenes)) for _ in range(each)]
            drawn[task] = [self._record(number, task, rng, arm) for number in chosen]
        return drawn

    def _record(self, number: int, task: str, rng: random.Random, arm: Arm | None) -> Record:
        scene = self.scenes[number][0]
        asked, tags = questions(scene, task, rng), tags_of(scene, "real", rng)  # all arms draw alike
        record = record_of(image_name(number), asked)
        return record if arm is None else for_arm(record, arm, tags)


def image_name(number: int) -> str:
    """File of a training scene."""
    return f"{number:05d}.png"


def write_images(scenes: Scenes, folder: Path) -> None:
    """Save the training scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (scene, _) in enumerate(scenes):
        scene.image.save(folder / image_name(number))


class Trainer:
    """The runs of a seed.

    Args:
        base: folder of the base and its tower.
        images: folder of the training scenes.
        settings: rates and sizes.
        seed: of the runs.
    """

    def __init__(self, base: Path, images: Path, settings: Settings, seed: int) -> None:
        self.base, self.images, self.settings, self.seed = base, images, settings, seed

    def align(self, records: Sequence[Record], output: Path) -> None:
        """The region projector alone."""
        self._run(records, output, {**ENCODER, "stage": "align", "learning_rate": self.settings.align_rate})

    def arm(self, arm: Arm, conversations: Conversations, aligned: Path, folder: Path) -> Path:
        """The stages of an arm; returns the folder of the last one's result."""
        before = aligned
        for number, (stage, records) in enumerate(deal(conversations.arm(arm), arm, self.seed), 1):
            output = folder / f"stage{number}"
            own = stage_flags(stage, before, self.settings.arm_rate)
            self._run(records, output, own | (arm.flags(self.settings.width) if number == 1 else {}))
            before = output
        return before

    def _run(self, records: Sequence[Record], output: Path, own: Flags) -> None:
        shutil.rmtree(output, ignore_errors=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        data = output.with_suffix(".json")
        with atomic_write(data) as path:
            path.write_text(json.dumps(list(records)), encoding="utf-8")
        flags: Flags = {
            "model_name_or_path": self.base / "base",
            "vision_tower": (self.base / "clip").resolve(),
            "data_path": data,
            "image_folder": self.images,
            "output_dir": output,
            "per_device_train_batch_size": self.settings.batch,
            "seed": self.seed,
        }
        words = [word for key, value in (_COMMON | flags | own).items() for word in (f"--{key}", str(value))]
        train(words, output.with_suffix(".log"))
