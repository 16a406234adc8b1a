"""The questions of ``pvit-ext eval own`` to a checkpoint, and to linear probes on the same features."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

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
GIVEN = "given.jsonl"
"""Answers that no checkpoint gave."""
Features = Callable[[tower.EfficientNetTower, Image.Image, Photograph], Tensor]
"""A row for each box of a photograph."""


def ask_checkpoint(arm: Arm, checkpoint: Path, images: Path, questions: Path, out: Path, dtype: str) -> dict[str, Any]:
    """Run ``pvit-ext eval own`` on a checkpoint; return what it measured.

    Args:
        arm: that the checkpoint was trained for.
        checkpoint: to ask.
        images: folder of the photographs.
        questions: file of records with one question each.
        out: folder of the answers, ``metrics.json`` and ``report.html``.
        dtype: in which it was trained.
    """
    model = ModelOptions(str(checkpoint), batch_size=BATCH, max_new_tokens=8, dtype=dtype)
    shown = None if arm.sees_regions else "image"
    return _measured(Settings("own", questions, str(images), out, model=model, arm=shown, words="the region"))


def score_answers(answers: Sequence[str], images: Path, questions: Path, out: Path) -> dict[str, Any]:
    """Measure answers that no checkpoint gave, one for each record."""
    file = out / GIVEN
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"id": f"{number}.0", "answer": answer}) for number, answer in enumerate(answers)]
    with atomic_write(file) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return _measured(Settings("own", questions, str(images), out, answers=file))


def of_crops(eye: tower.EfficientNetTower, image: Image.Image, photograph: Photograph) -> Tensor:
    """(boxes, T * C): what the region encoder gives, before any projector."""
    encoder = Crops(CropOptions(), eye.config)
    regions = [pvit_ext.Region.box(*box).resolve(image.size, photograph.image) for box in photograph.boxes]
    inputs = pvit_ext.RegionInputs(
        regions=regions,
        image_index=torch.zeros(len(regions), dtype=torch.int64),
        image_sizes=[image.size],
        extra=[encoder.preprocess(image, regions)],
        tower=eye,
    )
    return encoder(inputs).flatten(1)


def of_photograph(eye: tower.EfficientNetTower, image: Image.Image, photograph: Photograph) -> Tensor:
    """(boxes, C): the mean of the tower's image tokens, the same for each box."""
    mean = tuple(round(255 * value) for value in tower.MEAN)
    square = ImageOps.pad(image, (tower.SIDE, tower.SIDE), Image.Resampling.BICUBIC, mean)
    pixels = eye.image_processor.preprocess(square, return_tensors="pt")["pixel_values"]
    return eye(pixels).mean(1).expand(len(photograph.boxes), -1)  # (boxes, C)


PROBES: dict[str, Features] = {"photograph": of_photograph, "probe": of_crops}
"""Rows of the table without a language model, by what a linear classifier looks at."""


def probe(
    images: Path, fit: Sequence[Photograph], asked: Sequence[Photograph], seed: int, features: Features
) -> list[str]:
    """Answers of a linear classifier: what the features could tell at best.

    Args:
        images: folder of the photographs.
        fit: to learn from.
        asked: whose boxes are asked about, photograph by photograph.
        seed: of the classifier.
        features: that it looks at.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    eye = tower.EfficientNetTower(tower.NAME, None).requires_grad_(False)
    eye.load_model()
    eye.eval()
    classifier = make_pipeline(
        StandardScaler(), LogisticRegression(C=1e-3, class_weight="balanced", max_iter=300, random_state=seed)
    )

    def rows_of(photographs: Sequence[Photograph]) -> NDArray[np.float32]:
        found = [features(eye, load_image(images / one.image), one).numpy() for one in photographs]
        return np.concatenate(found)  # (boxes, C)

    classifier.fit(rows_of(fit), [kind for one in fit for kind in one.kinds])
    return [str(kind) for kind in classifier.predict(rows_of(asked))]


def _measured(settings: Settings) -> dict[str, Any]:
    values = evaluate(settings)
    assert values is not None  # one process
    return values
