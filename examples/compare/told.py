"""Scenes whose digits are told in words: by coordinates, as ``text`` writes them, or by marks, as ``overlay`` draws.

LLaVA's own training has boxes written as text (RefCOCO, Visual Genome), and ViP-LLaVA's has marks drawn on its images.
A model that never had to find a position in an image cannot learn it from the few scenes that a row of the comparison
trains on, so the base that all rows share is pre-trained on both.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from examples.compare.regions import KINDS, SIDES, region_of
from examples.quickstart.language import Turn
from examples.quickstart.world import (
    ANSWERS_LARGER,
    ASK_COLOUR,
    ASK_DIGIT,
    ASK_LARGER,
    DIGITS,
    Box,
    Digit,
    Scene,
    make_scene,
)
from pvit_ext.encoders.overlay import COLORS, USUAL_MARKS, Overlay, OverlayOptions
from pvit_ext.encoders.text import Text, TextOptions

TEXT_OPTIONS: dict[str, Any] = {"decimals": 1, "space": "padded"}
"""As fine as the tiny tower's map of 7 x 7 cells, on the square that it sees."""
OVERLAY_OPTIONS: dict[str, Any] = {"name": "the object {place} the {color}-{mark}"}
"""One word for a mark, as there is one for a digit in a colour: "red" alone is a digit's colour here."""
NUMBERS = tuple(f"{tenths / 10:.1f}" for tenths in range(11))
MARKS = tuple(dict.fromkeys(USUAL_MARKS[kind] for kind in KINDS))
MARKED = 0.7
"""How often a marked digit is told by a mark."""


@dataclass(frozen=True)
class Told:
    """A scene and the words for its digits.

    Args:
        scene: with its marks drawn.
        marked: the box of each mark, in the order of ``overlay``'s colours.
        coordinates: box of a digit -> its coordinates as text, as a box, a mask and a point.
        marks: box of a digit -> names of its marks.
    """

    scene: Scene
    marked: tuple[Box, ...]
    coordinates: dict[Box, list[str]]
    marks: dict[Box, list[str]]


def symbols() -> list[str]:
    """Pieces that the tokenizer keeps whole: first, last and other numbers of coordinates, and the marks."""
    numbers = [piece for number in NUMBERS for piece in (f"[{number}", f"{number}]", number)]
    return [*numbers, *(f"{color}-{mark}" for color in COLORS for mark in MARKS)]


def tell(scene: Scene, rng: random.Random, marked: float) -> Told:
    """Draw marks on a part ``marked`` of all scenes, on some of their digits, and find the words for all of them."""
    size, pairs = scene.image.size, [(digit.box, kind) for digit in scene.digits for kind in KINDS]
    text, overlay = Text(TextOptions(**TEXT_OPTIONS)), Overlay(OverlayOptions(**OVERLAY_OPTIONS))
    coordinates: dict[Box, list[str]] = {digit.box: [] for digit in scene.digits}
    for box, kind in pairs:
        coordinates[box] += text.describe([region_of(kind, box, scene, rng).resolve(size)], [size])
    marks: dict[Box, list[str]] = {digit.box: [] for digit in scene.digits}
    if rng.random() >= marked:
        return Told(scene, (), coordinates, marks)
    chosen = rng.sample(pairs, min(rng.randint(1, len(COLORS)), len(pairs)))
    regions = [region_of(kind, box, scene, rng).resolve(size) for box, kind in chosen]
    for (box, _), name in zip(chosen, overlay.describe(regions, [size]), strict=True):
        marks[box].append(name)
    painted = Scene(overlay.paint(scene.image, regions), scene.digits)
    return Told(painted, tuple(box for box, _ in chosen), coordinates, marks)


def tell_scenes(count: int, digits: tuple[int, int], rng: random.Random, marked: float = 0.5) -> list[Told]:
    """Training scenes, told.

    Args:
        count: of scenes.
        digits: fewest and most that are tried on a scene.
        rng: of everything.
        marked: part of the scenes that have marks.
    """
    return [tell(make_scene("train", rng, SIDES, digits), rng, marked) for _ in range(count)]


def turns_about(told: Told, digits: Sequence[Digit], rng: random.Random) -> list[Turn]:
    """Digit and colour of each digit, asked once so that no answer is there to copy, and two comparisons; shuffled."""
    turns = [(ASK_DIGIT.replace("<region>", _name(told, digit, rng)), DIGITS[digit.value]) for digit in digits]
    turns += [(ASK_COLOUR.replace("<region>", _name(told, digit, rng)), digit.colour) for digit in digits]
    pairs = [(a, b) for a in digits for b in digits if a.value != b.value]
    for first, second in rng.sample(pairs, min(2, len(pairs))):
        question = ASK_LARGER.replace("<region>", _name(told, first, rng), 1)
        question = question.replace("<region>", _name(told, second, rng), 1)
        turns.append((question, ANSWERS_LARGER[first.value < second.value]))
    rng.shuffle(turns)
    return turns


def _name(told: Told, digit: Digit, rng: random.Random) -> str:
    marks = told.marks[digit.box]
    return rng.choice(marks if marks and rng.random() < MARKED else told.coordinates[digit.box])
