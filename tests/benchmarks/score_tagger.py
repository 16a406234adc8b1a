"""Precision and recall of a detector as a tagger: the classes it finds in a photograph against those labelled there.

Run ``python -m tests.benchmarks.score_tagger --tagger FILE.onnx --names FILE --data DIR`` from the repository's root;
writes ``results/tagger.csv``. DIR is ``coco256``, with ``images/PART`` and YOLO labels of the detector's classes in
``object_detection/labels/PART``. A photograph without a label file does not count.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pvit_ext.data.tags.onnx_detector import OnnxDetector
from pvit_ext.data.tags.scores import TagScores
from pvit_ext.data.tags.taggers import DetectorTagger, load_tagger
from pvit_ext.files import atomic_write
from pvit_ext.regions.image import load_image
from tests.benchmarks.harness import RESULTS

THRESHOLDS = (0.35, 0.5, 0.65, 0.75)


class Photograph(NamedTuple):
    """Scores of a detector's K classes, float32 (K,), the numbers of those in the picture, and its milliseconds."""

    scores: NDArray[np.float32]
    truth: set[str]
    milliseconds: float


def photographs(detector: OnnxDetector, data: Path, part: str) -> list[Photograph]:
    """The labelled photographs of a part of the data."""
    found = []
    for image in sorted((data / "images" / part).iterdir()):
        labels = data / "object_detection" / "labels" / part / f"{image.stem}.txt"
        if labels.exists():
            truth = {detector.names[int(line.split()[0])] for line in labels.read_text().splitlines() if line.strip()}
            pixels, start = load_image(image), time.process_time()
            scores = detector.scores(pixels)
            found.append(Photograph(scores, truth, 1000 * (time.process_time() - start)))
    return found


def rows(detector: OnnxDetector, data: Path) -> list[dict[str, object]]:
    """One row for each threshold, on each part and on all."""
    of_part = {part.name: photographs(detector, data, part.name) for part in sorted((data / "images").iterdir())}
    made: list[dict[str, object]] = []
    for part, shown in {**of_part, "all": [one for own in of_part.values() for one in own]}.items():
        for threshold in THRESHOLDS:
            tags = [{detector.names[number] for number in np.flatnonzero(one.scores > threshold)} for one in shown]
            scores = TagScores.of(zip(tags, (one.truth for one in shown), strict=True))
            made.append({
                "tagger": detector.path.name, "part": part, "photographs": len(shown), "threshold": threshold,
                "precision": round(scores.precision, 3), "recall": round(scores.recall, 3),
                "right": scores.right, "wrong": scores.wrong, "missed": scores.missed,
                "cpu_ms": round(float(np.median([one.milliseconds for one in shown])), 1),
            })  # fmt: skip
    return made


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tagger", required=True, metavar="FILE.onnx")
    parser.add_argument("--names", required=True, metavar="FILE")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR")
    parser.add_argument("--to", type=Path, default=RESULTS, metavar="FOLDER")
    given = parser.parse_args()
    tagger = load_tagger(given.tagger, given.names)
    assert isinstance(tagger, DetectorTagger)
    made = rows(tagger.detector, given.data)
    with atomic_write(given.to / "tagger.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(made[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(made)
    for row in made:
        print("  ".join(f"{name}={value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
