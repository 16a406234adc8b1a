"""The questions of ``pvit-ext eval own`` to a checkpoint, and to a linear probe on the same crops."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import pvit_ext
from examples.photographs import tower
from examples.photographs.arms import Arm
from examples.photographs.crops import CropOptions, Crops
from examples.photographs.data import Photograph
from pvit_ext.evaluation.answering import ModelOptions
from pvit_ext.evaluation.run import Settings, evaluate
from pvit_ext.files import atomic_write
from pvit_ext.regions.image import load_image

BATCH = 32


def ask_checkpoint(arm: Arm, checkpoint: Path, images: Path, questions: Path, out: Path) -> dict[str, Any]:
    """Run ``pvit-ext eval own`` on a checkpoint, in bfloat16 as it was trained; return what it measured.

    Args:
        arm: that the checkpoint was trained for.
        checkpoint: to ask.
        images: folder of the photographs.
        questions: file of records with one question each.
        out: folder of the answers, ``metrics.json`` and ``report.html``.
    """
    model = ModelOptions(str(checkpoint), batch_size=BATCH, max_new_tokens=8, dtype="bfloat16")
    shown = None if arm.sees_regions else "image"
    return _measured(Settings("own", questions, str(images), out, model=model, arm=shown, words="the region"))


def score_answers(answers: Sequence[str], images: Path, questions: Path, out: Path) -> dict[str, Any]:
    """Measure answers that no checkpoint gave, one for each record."""
    file = out / "given.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": f"{number}.0", "answer": answer}) for number, answer in enumerate(answers)]
    with atomic_write(file) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return _measured(Settings("own", questions, str(images), out, answers=file))


def probe(images: Path, fit: Sequence[Photograph], asked: Sequence[Photograph], seed: int) -> list[str]:
    """Answers of a linear classifier on the crops' features: what the region tokens could tell at best.

    Args:
        images: folder of the photographs.
        fit: to learn from.
        asked: whose boxes are asked about, photograph by photograph.
        seed: of the classifier.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    eye = tower.EfficientNetTower(tower.NAME, None).requires_grad_(False)
    eye.load_model()
    eye.eval()
    encoder = Crops(CropOptions(), eye.config)
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=1e-3, class_weight="balanced", max_iter=300, random_state=seed)
    )
    classifier.fit(_features(encoder, eye, images, fit), [kind for one in fit for kind in one.kinds])
    return [str(kind) for kind in classifier.predict(_features(encoder, eye, images, asked))]


def _features(encoder: Crops, eye: Any, images: Path, photographs: Sequence[Photograph]) -> NDArray[np.float32]:
    """(boxes, T * C)."""
    rows = []
    for photograph in photographs:
        image = load_image(images / photograph.image)
        regions = [pvit_ext.Region.box(*box).resolve(image.size, photograph.image) for box in photograph.boxes]
        inputs = pvit_ext.RegionInputs(
            regions=regions,
            image_index=torch.zeros(len(regions), dtype=torch.int64),
            image_sizes=[image.size],
            extra=[encoder.preprocess(image, regions)],
            tower=eye,
        )
        rows.append(encoder(inputs).flatten(1).numpy())
    return np.concatenate(rows)


def _measured(settings: Settings) -> dict[str, Any]:
    values = evaluate(settings)
    assert values is not None  # one process
    return values
