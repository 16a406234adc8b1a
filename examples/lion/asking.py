"""The held-out questions to an arm, with tags of every quality that it takes."""

from __future__ import annotations

import random
import statistics
from pathlib import Path
from typing import Any

import pvit_ext
from examples.lion.arms import Arm
from examples.lion.settings import Settings
from examples.lion.tags import tags_of
from examples.lion.tasks import TASKS, Asked, questions, score
from examples.quickstart.towers import Scenes
from examples.quickstart.world import Scene

BATCH = 64
Scores = dict[str, dict[str, float]]
"""Quality of tags -> task -> mean score, 0 to 1."""


def ask_arm(arm: Arm, checkpoint: Path, scenes: Scenes, settings: Settings) -> dict[str, Any]:
    """Scores of an arm and its answers, by quality of tags.

    Args:
        arm: that was trained.
        checkpoint: folder of its region modules.
        scenes: to ask about; the same questions and tags for every arm and seed.
        settings: of the experiment.
    """
    asked = held_out_questions(scenes)
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(checkpoint), device="cpu")
    found: dict[str, Any] = {"scores": {}, "answers": {}}
    for quality in arm.qualities:
        queries = [_query(arm, *pair, quality) for pair in asked]
        answers = pvit_ext.ask(
            model, tokenizer, processor, queries, max_new_tokens=settings.most, batch_size=BATCH, progress=True
        )
        found["scores"][quality] = score_all([one for _, one in asked], answers)
        found["answers"][quality] = answers
    return found


def held_out_questions(scenes: Scenes) -> list[tuple[Scene, Asked]]:
    """All questions about scenes, each with its scene."""
    rng = random.Random("questions")
    return [(scene, one) for scene, _ in scenes for task in TASKS for one in questions(scene, task, rng)]


def score_all(asked: list[Asked], answers: list[str]) -> dict[str, float]:
    """Mean score of each task, 0 to 1."""
    scored = [(one.task, score(one, answer)) for one, answer in zip(asked, answers, strict=True)]
    return {task: statistics.mean(value for own, value in scored if own == task) for task in TASKS}


def _query(arm: Arm, scene: Scene, asked: Asked, quality: str) -> pvit_ext.Query:
    regions = [] if asked.box is None else [pvit_ext.Region.box(*asked.box)]
    drawn = random.Random(f"{quality}-{scene.digits}")  # every question about a scene shows the same tags
    tags = tags_of(scene, quality, drawn) if arm.tags else None
    return pvit_ext.Query(scene.image, asked.text, regions, task=arm.task, tags=tags)
