"""Regions of every kind for the quickstart's questions, each telling where to look and not what is there."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

import pvit_ext
from examples.quickstart.towers import Scenes
from examples.quickstart.world import COLOURS, Box, Question, Scene, record_of
from pvit_ext.files import atomic_write
from pvit_ext.regions.region import Region

KINDS = ("box", "mask", "point")
SIDES = (14, 40)
"""Smallest and largest side of a digit, in pixels: the quickstart's smallest is 24."""
SMALL = 0.015
"""A box is small when it covers less than this part of its image; about a quarter of them do."""


def region_of(kind: str, box: Box, scene: Scene, rng: random.Random) -> Region:
    """A region on the digit in a box: the box, the ellipse in it as a mask, or a point on the digit's ink.

    A mask of the ink itself would tell the digit by its shape, without a look at the image.
    """
    if kind == "box":
        return Region.box(*box)
    if kind == "point":
        return Region.point(*_ink(box, scene, rng))
    x0, y0, x1, y1 = box
    y, x = np.mgrid[: scene.image.height, : scene.image.width] + 0.5  # (H, W) each
    inside = ((2 * x - x0 - x1) / (x1 - x0)) ** 2 + ((2 * y - y0 - y1) / (y1 - y0)) ** 2 <= 1
    return Region.mask(inside)


def is_small(question: Question, scene: Scene) -> bool:
    """Whether every box of a question is small, see :data:`SMALL`."""
    return all(
        (x1 - x0) * (y1 - y0) < SMALL * scene.image.width * scene.image.height for x0, y0, x1, y1 in question.boxes
    )


def write_records(scenes: Scenes, kinds: tuple[str, ...], path: Path, seed: int) -> None:
    """Training records in LLaVA's format, one a scene; every question points with a kind that is drawn for it."""
    rng, records = random.Random(seed), []
    for number, (scene, questions) in enumerate(scenes):
        record = record_of(f"{number:05d}.jpg", scene, questions, "regions")
        drawn = [(box, kind) for question in questions for kind in [rng.choice(kinds)] for box in question.boxes]
        record["regions"] = [as_json(region_of(kind, box, scene, rng)) for box, kind in drawn]
        records.append(record)
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(records), encoding="utf-8")


def queries(scenes: Scenes, kind: str, seed: int) -> list[pvit_ext.Query]:
    """All questions of the scenes, pointed with regions of one kind."""
    rng = random.Random(seed)
    return [
        pvit_ext.Query(scene.image, question.text, [region_of(kind, box, scene, rng) for box in question.boxes])
        for scene, questions in scenes
        for question in questions
    ]


def as_json(region: Region) -> dict[str, Any]:
    """A box, point or mask as training records have it; a mask as COCO's run lengths."""
    if region.pixels is None:
        return {region.kind: [value for point in region.points for value in point]}
    runs = np.flatnonzero(
        np.diff(region.pixels.T.ravel(), prepend=False, append=True)
    )  # columns first, from background
    counts = np.diff(runs, prepend=0)
    return {"mask": {"size": list(region.pixels.shape), "counts": counts.tolist()}}


def _ink(box: Box, scene: Scene, rng: random.Random) -> tuple[float, float]:
    """A pixel of the digit's colour in its box; the one closest to that colour where scaling has mixed them all."""
    colour = next(digit.colour for digit in scene.digits if digit.box == box)
    x0, y0, x1, y1 = (int(edge) for edge in box)
    distance = np.abs(np.asarray(scene.image, dtype=np.int64)[y0:y1, x0:x1] - np.array(COLOURS[colour])).max(2)
    rows, columns = np.nonzero(distance <= max(int(distance.min()), 40))
    chosen = rng.randrange(len(rows))
    return x0 + int(columns[chosen]) + 0.5, y0 + int(rows[chosen]) + 0.5
