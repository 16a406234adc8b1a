"""The quickstart's world: scenes of handwritten digits on photographs, and questions that only the region can answer.

Digits are scikit-learn's ``load_digits`` (8x8 scans of real handwriting), photographs its ``china.jpg`` and
``flower.jpg``. Training and held-out scenes share neither a handwritten sample nor a pixel of a photograph.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pvit_ext.files import atomic_write

Split = Literal["train", "test"]
Rendering = Literal["image_only", "text_coordinates", "regions"]
Box = tuple[float, float, float, float]

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = {
    "red": (255, 40, 30),
    "green": (40, 220, 50),
    "blue": (50, 90, 255),
    "yellow": (255, 235, 30),
    "white": (255, 255, 255),
    "pink": (255, 70, 215),
}
SIZES = ((160, 120), (120, 160), (128, 128), (176, 112))
SIDES = (24, 40)
ASK_DIGIT, ASK_COLOUR, ASK_LARGER = (
    "What digit is in <region>?",
    "What colour is the digit in <region>?",
    "Which is larger, <region> or <region>?",
)
ANSWERS_LARGER = ("the first", "the second")
TEST_COLUMNS = 0.3
"""Left-hand part of each photograph that only held-out scenes show."""
TEST_SAMPLES = 400
"""Handwritten samples kept for held-out scenes, of 1797."""


@dataclass(frozen=True)
class Digit:
    """One digit of a scene: its value, colour name, and box (x0, y0, x1, y1) around the ink in image pixels."""

    value: int
    colour: str
    box: Box


@dataclass(frozen=True)
class Scene:
    """An image and the digits on it."""

    image: Image.Image
    digits: tuple[Digit, ...]


@dataclass(frozen=True)
class Question:
    """A question with ``<region>`` for each of the boxes it points at, and its answer."""

    kind: Literal["digit", "colour", "larger"]
    text: str
    boxes: tuple[Box, ...]
    answer: str

    def render(self, how: Rendering, size: tuple[int, int]) -> str:
        """The question as one arm of the ablation reads it; ``size`` is the image's (width, height)."""
        text = self.text
        for box in self.boxes:
            if how == "image_only":
                text = text.replace("<region>", "the region", 1)
            elif how == "text_coordinates":
                text = text.replace("<region>", coordinates(box, size), 1)
        return text


def coordinates(box: Box, size: tuple[int, int]) -> str:
    """A box as text, xyxy in 0..1 of the image with three decimals (Shikra's form, arXiv 2306.15195)."""
    return "[" + ",".join(f"{value / size[axis % 2]:.3f}" for axis, value in enumerate(box)) + "]"


def make_scene(
    split: Split, rng: random.Random, sides: tuple[int, int] = SIDES, count: tuple[int, int] = (3, 5)
) -> Scene:
    """Digits of random size and colour, apart from each other, on a darkened piece of a photograph.

    Args:
        split: whose handwriting and photographs.
        rng: of everything.
        sides: smallest and largest side of a digit, in pixels.
        count: fewest and most digits that are tried; those that find no free spot are left out.
    """
    size = rng.choice(SIZES)
    canvas = _background(split, size, rng)
    placed: list[Digit] = []
    for _ in range(rng.randint(*count)):
        sample, side = rng.choice(_samples()[split]), rng.randint(*sides)
        spot = _free_spot(side, size, placed, rng)
        if spot is not None:
            placed.append(_draw(canvas, sample, side, spot, rng.choice(list(COLOURS))))
    return Scene(Image.fromarray(canvas.round().astype(np.uint8)), tuple(placed))


def ask_about(scene: Scene, rng: random.Random) -> list[Question]:
    """Five questions in random order: two digits, a colour, two comparisons by value (of digits that differ)."""
    picked = rng.sample(scene.digits, 3)
    questions = [Question("digit", ASK_DIGIT, (d.box,), DIGITS[d.value]) for d in picked[:2]]
    questions.append(Question("colour", ASK_COLOUR, (picked[2].box,), picked[2].colour))
    pairs = [(a, b) for a in scene.digits for b in scene.digits if a.value != b.value]
    for a, b in rng.sample(pairs, min(2, len(pairs))):
        questions.append(Question("larger", ASK_LARGER, (a.box, b.box), ANSWERS_LARGER[a.value < b.value]))
    rng.shuffle(questions)
    return questions


def make_scenes(
    split: Split, count: int, seed: int, sides: tuple[int, int] = SIDES
) -> list[tuple[Scene, list[Question]]]:
    """Scenes with at least three digits, each with its questions; the same for the same seed."""
    rng = random.Random(f"{split}-{seed}")
    scenes: list[tuple[Scene, list[Question]]] = []
    while len(scenes) < count:
        scene = make_scene(split, rng, sides)
        if len(scene.digits) >= 3:
            scenes.append((scene, ask_about(scene, rng)))
    return scenes


def write_training_data(scenes: list[tuple[Scene, list[Question]]], folder: Path) -> None:
    """Write the images and, for each rendering of the questions, ``{rendering}.json`` in LLaVA's format.

    Every conversation has all of a scene's questions as its turns; the ``regions`` file adds boxes in pixels.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"{number:05d}.jpg" for number in range(len(scenes))]
    for name, (scene, _) in zip(names, scenes, strict=True):
        scene.image.save(folder / "images" / name, quality=95, subsampling=0)
    for how in ("image_only", "text_coordinates", "regions"):
        records = [record_of(name, *pair, how) for name, pair in zip(names, scenes, strict=True)]
        with atomic_write(folder / f"{how}.json") as path:
            path.write_text(json.dumps(records), encoding="utf-8")


def record_of(name: str, scene: Scene, questions: list[Question], how: Rendering) -> dict[str, Any]:
    """A scene's conversation in LLaVA's format; see :func:`write_training_data`."""
    turns: list[dict[str, str]] = []
    for question in questions:
        turns.append({"from": "human", "value": question.render(how, scene.image.size)})
        turns.append({"from": "gpt", "value": question.answer})
    turns[0]["value"] = "<image>\n" + turns[0]["value"]
    record: dict[str, Any] = {"id": name, "image": name, "conversations": turns}
    if how == "regions":
        record["regions"] = [list(box) for question in questions for box in question.boxes]
    return record


@cache
def _samples() -> dict[Split, list[tuple[NDArray[np.float64], int]]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    pairs = [(digits.images[i] / 16.0, int(digits.target[i])) for i in order]
    return {"test": pairs[:TEST_SAMPLES], "train": pairs[TEST_SAMPLES:]}


@cache
def _photographs() -> list[Image.Image]:
    from sklearn.datasets import load_sample_image

    return [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]


def _background(split: Split, size: tuple[int, int], rng: random.Random) -> NDArray[np.float64]:
    photo = rng.choice(_photographs())
    border = int(photo.width * TEST_COLUMNS)
    left, right = (0, border) if split == "test" else (border, photo.width)
    zoom = rng.uniform(0.5, 1.0)
    width, height = round(size[0] * zoom), round(size[1] * zoom)
    x, y = rng.randint(left, right - width), rng.randint(0, photo.height - height)
    piece = photo.crop((x, y, x + width, y + height)).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(piece, dtype=np.float64) * 0.5


def _free_spot(side: int, size: tuple[int, int], placed: list[Digit], rng: random.Random) -> tuple[int, int] | None:
    for _ in range(50):
        x, y = rng.randint(0, size[0] - side), rng.randint(0, size[1] - side)
        if all(
            x > d.box[2] + 2 or x + side < d.box[0] - 2 or y > d.box[3] + 2 or y + side < d.box[1] - 2 for d in placed
        ):
            return x, y
    return None


def _draw(
    canvas: NDArray[np.float64],
    sample: tuple[NDArray[np.float64], int],
    side: int,
    spot: tuple[int, int],
    colour: str,
) -> Digit:
    (x, y), (scan, value) = spot, sample
    grey = Image.fromarray(scan.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    ink = np.clip(np.asarray(grey, dtype=np.float64) * 1.3, 0.0, 1.0)[..., None]
    canvas[y : y + side, x : x + side] *= 1 - ink
    canvas[y : y + side, x : x + side] += ink * np.array(COLOURS[colour])
    rows, columns = np.flatnonzero(ink.max((1, 2)) > 0.3), np.flatnonzero(ink.max((0, 2)) > 0.3)
    box = (x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1)
    return Digit(value, colour, tuple(float(edge) for edge in box))  # type: ignore[arg-type]
