"""The strategies of PVIT's data: which images each can use, and which of their regions it asks about."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pvit_ext.data.generate.scene import Scene, is_small

TASK_SPECIFIC = ("small_objects", "same_category", "relationship", "attribute", "ocr", "multi_turn")
STRATEGIES = (*TASK_SPECIFIC, "general")
MAX_REGIONS = 20
"""Shown in one prompt; more make models mix them up."""


@dataclass(frozen=True)
class Job:
    """One dialogue to be written.

    Args:
        scene: its image.
        strategy: one of ``STRATEGIES``.
        shown: numbers of the scene's objects, in the order of their names [R1], [R2], ...
        asked: those that at least one question must point at; empty for any.
    """

    scene: Scene
    strategy: str
    shown: tuple[int, ...]
    asked: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Unique in a run, and the id of the record."""
        return f"{self.scene.name}-{self.strategy}"


class NotApplicable(ValueError):
    """A scene that a strategy cannot use, with the reason."""


def make_job(scene: Scene, strategy: str, seed: int, with_image: bool) -> Job:
    """The job of a strategy on a scene.

    Args:
        scene: an image.
        strategy: one of ``STRATEGIES``.
        seed: chooses among more regions than ``MAX_REGIONS``, together with the scene's name.
        with_image: the model sees the image, so that less must be annotated.

    Raises:
        NotApplicable: where the scene lacks what the strategy needs.
    """
    asked = _ASKED[strategy](scene, with_image)
    others = [number for number in range(len(scene.objects)) if number not in asked]
    shown = _shuffled(asked, scene, seed)[:MAX_REGIONS]
    shown += _shuffled(others, scene, seed)[: MAX_REGIONS - len(shown)]
    demanded = strategy in ("small_objects", "same_category", "ocr")
    kept = tuple(number for number in sorted(shown) if number in asked) if demanded else ()
    return Job(scene, strategy, tuple(sorted(shown)), kept)


def _shuffled(numbers: Sequence[int], scene: Scene, seed: int) -> list[int]:
    """The numbers in an order that is the same on every machine."""
    return sorted(numbers, key=lambda number: hashlib.sha256(f"{seed} {scene.name} {number}".encode()).digest())


def _told(scene: Scene) -> bool:
    """Whether sentences or phrases tell more than labels do."""
    return bool(scene.captions) or any(thing.phrases for thing in scene.objects)


def _small(scene: Scene, with_image: bool) -> list[int]:
    found = [number for number, thing in enumerate(scene.objects) if is_small(thing) and (thing.label or with_image)]
    if not found:
        raise NotApplicable("no small object with a label")
    return found


def _same_category(scene: Scene, with_image: bool) -> list[int]:
    counts = Counter(thing.label for thing in scene.objects if thing.label)
    label, count = max(counts.items(), key=lambda item: (item[1], item[0]), default=("", 0))
    if count < 2:
        raise NotApplicable("no two regions with the same label")
    return [number for number, thing in enumerate(scene.objects) if thing.label == label]


def _related(scene: Scene, with_image: bool) -> list[int]:
    if len(scene.objects) < 2 or not (scene.relations or _told(scene) or with_image):
        raise NotApplicable("fewer than two regions, or neither relations nor captions nor phrases nor the image")
    return sorted({number for first, _, second in scene.relations for number in (first, second)})


def _attributed(scene: Scene, with_image: bool) -> list[int]:
    found = [number for number, thing in enumerate(scene.objects) if thing.attributes]
    if not (found or _told(scene) or with_image):
        raise NotApplicable("neither attributes nor captions nor phrases nor the image")
    return found


def _written(scene: Scene, with_image: bool) -> list[int]:
    found = [number for number, thing in enumerate(scene.objects) if thing.text]
    if not (found or with_image):
        raise NotApplicable("no region with a text")
    return found


def _several(scene: Scene, with_image: bool) -> list[int]:
    if len(scene.objects) < 2 or not (with_image or any(thing.label for thing in scene.objects)):
        raise NotApplicable("fewer than two regions, or no label")
    return []


def _any(scene: Scene, with_image: bool) -> list[int]:
    if not (_told(scene) or scene.description or with_image):
        raise NotApplicable("neither captions nor phrases nor a description nor the image")
    return []


_ASKED = {
    "small_objects": _small,
    "same_category": _same_category,
    "relationship": _related,
    "attribute": _attributed,
    "ocr": _written,
    "multi_turn": _several,
    "general": _any,
}
