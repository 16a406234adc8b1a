"""The questions about held-out photographs to an arm, with tags of every quality that it takes."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pvit_ext
from examples.lion.arms import Arm
from examples.lion.asking import score_all
from examples.lion.photographs.settings import Settings
from examples.lion.photographs.tagging import Tagging
from examples.lion.tasks import IMAGE, REGION, TASKS, Asked, score
from examples.photographs.data import Photograph, Wording, only
from pvit_ext.regions.image import load_image

BATCH = 32
Question = tuple[str, Asked]
"""Image and what is asked about it."""


def held_out_questions(
    photographs: Sequence[Photograph], kinds: Sequence[str], wording: Wording, most: int
) -> list[Question]:
    """One question about each whole photograph, and some about boxes on it, always the same.

    Args:
        photographs: with the boxes of all kinds.
        kinds: whose boxes are asked about.
        wording: of the questions.
        most: boxes of a photograph.
    """
    rng = random.Random("questions")
    found = [(one.image, Asked(IMAGE, wording.tags(), ", ".join(sorted({*one.kinds})))) for one in photographs]
    for one in only(photographs, kinds):
        pairs = list(zip(one.boxes, one.kinds, strict=True))
        for box, kind in rng.sample(pairs, min(most, len(pairs))):
            found.append((one.image, Asked(REGION, wording.first(), kind, box)))
    return found


def ask_arm(
    arm: Arm, checkpoint: Path, root: Path, asked: Sequence[Question], tagging: Tagging, settings: Settings
) -> dict[str, Any]:
    """Scores of an arm and its answers, by quality of tags, in the dtype of its training.

    Args:
        arm: that was trained.
        checkpoint: to ask.
        root: folder of the images.
        asked: the same questions for every arm and seed.
        tagging: of the images.
        settings: of the experiment.
    """
    loaded = pvit_ext.load_pretrained_model(str(checkpoint), device="cpu", dtype=settings.dtype)
    tokenizer, model, processor, _ = loaded
    lengths = {IMAGE: settings.most_image, REGION: settings.most_region}
    by_task = _by_task(asked)
    found: dict[str, Any] = {"scores": {}, "answers": {}}
    for quality in arm.qualities:
        answers: list[str] = []
        for task, own in by_task.items():
            queries = [_query(arm, *one, root, tagging, quality) for one in own]
            answers += pvit_ext.ask(
                model, tokenizer, processor, queries, max_new_tokens=lengths[task], batch_size=BATCH, progress=True
            )
        found["scores"][quality] = score_all([one for own in by_task.values() for _, one in own], answers)
        found["answers"][quality] = answers
    return found


def without_a_model(asked: Sequence[Question], tagging: Tagging) -> dict[str, dict[str, float]]:
    """Scores of answers that no model gave: the most frequent kind each time, and the tagger's tags as they are.

    Args:
        asked: questions of both tasks.
        tagging: of their images.
    """
    by_task = _by_task(asked)
    found: dict[str, dict[str, float]] = {"the most frequent kind": {}}
    for task, own in by_task.items():
        most, _ = Counter(kind for _, one in own for kind in one.answer.split(", ")).most_common(1)[0]
        found["the most frequent kind"][task] = _mean_score(own, [most] * len(own))
    named = [", ".join(tagging.of(image, "real")) for image, _ in by_task[IMAGE]]
    return found | {"the tagger's tags": {IMAGE: _mean_score(by_task[IMAGE], named)}}


def _by_task(asked: Sequence[Question]) -> dict[str, list[Question]]:
    return {task: [one for one in asked if one[1].task == task] for task in TASKS}


def _mean_score(asked: Sequence[Question], answers: Sequence[str]) -> float:
    return statistics.mean(score(one, answer) for (_, one), answer in zip(asked, answers, strict=True))


def _query(arm: Arm, image: str, asked: Asked, root: Path, tagging: Tagging, quality: str) -> pvit_ext.Query:
    regions = [] if asked.box is None else [pvit_ext.Region.box(*asked.box)]
    tags = tagging.of(image, quality) if arm.tags else None
    return pvit_ext.Query(load_image(root / image), asked.text, regions, task=arm.task, tags=tags)
