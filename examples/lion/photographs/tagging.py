"""Tags of photographs: true ones by their labels, a real tagger's, and wrong ones."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from examples.photographs.data import Photograph
from pvit_ext.data.tags.scores import TagScores
from pvit_ext.data.tags.taggers import load_tagger
from pvit_ext.files import atomic_write
from pvit_ext.regions.image import load_image

Tags = dict[str, list[str]]
"""By image."""


@dataclass(frozen=True)
class Tagging:
    """Tags of each quality.

    Args:
        true: all classes that are labelled.
        real: the tagger's.
        classes: all that there are.
    """

    true: Tags
    real: Tags
    classes: Sequence[str]

    def of(self, image: str, quality: str) -> list[str]:
        """Tags of an image in random order, always the same.

        Args:
            image: its name.
            quality: ``none``, ``true``, ``real``, or ``wrong``: as many as there are true ones, none of them true; all
                others where there are fewer.
        """
        rng, true = random.Random(f"{quality}-{image}"), self.true[image]
        if quality == "none":
            return []
        if quality == "wrong":
            others = [one for one in self.classes if one not in true]
            return rng.sample(others, min(len(true), len(others)))
        found = true if quality == "true" else self.real[image]
        return rng.sample(found, len(found))

    def quality(self, images: Sequence[str]) -> dict[str, float]:
        """Precision and recall of the tagger on images, counted over all their classes."""
        scores = TagScores.of(({*self.real[image]}, {*self.true[image]}) for image in images)
        return {"photographs": len(images), "precision": round(scores.precision, 3), "recall": round(scores.recall, 3)}


def true_tags(photographs: Sequence[Photograph]) -> Tags:
    """The classes on each photograph, sorted."""
    return {one.image: sorted({*one.kinds}) for one in photographs}


def write_real_tags(
    tagger: Path, classes: Sequence[str], threshold: float, root: Path, images: Sequence[str], out: Path
) -> None:
    """Run a detector over images, and write its tags as JSON.

    Args:
        tagger: ``FILE.onnx``.
        classes: of the detector, by their numbers.
        threshold: of its scores.
        root: folder of the images.
        images: their names.
        out: file to write; the classes go beside it.
    """
    names = out.with_suffix(".names")
    names.parent.mkdir(parents=True, exist_ok=True)
    names.write_text("\n".join(classes) + "\n", encoding="utf-8")
    detector = load_tagger(str(tagger), str(names), threshold)
    found = {image: detector.tags(image, partial(load_image, root / image)) for image in images}
    with atomic_write(out) as temporary:
        temporary.write_text(json.dumps(found, indent=0), encoding="utf-8")
