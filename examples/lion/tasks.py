"""Image-level and region-level questions about a scene, the records of both, and how answers are scored."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from examples.quickstart.checkpoint import ASK_COLOURS, ASK_DIGITS
from examples.quickstart.world import ASK_COLOUR, ASK_DIGIT, COLOURS, DIGITS, Box, Scene

IMAGE, REGION = "image", "region"
TASKS = (IMAGE, REGION)


@dataclass(frozen=True)
class Asked:
    """A question, its right answer, and the box that it is about.

    Args:
        task: ``image`` or ``region``.
        text: with ``<region>`` for the box.
        answer: words, with commas between.
        box: in pixels; None for a question about the whole image.
    """

    task: str
    text: str
    answer: str
    box: Box | None = None


def questions(scene: Scene, task: str, rng: random.Random) -> list[Asked]:
    """The questions of one task about a scene, in random order.

    Args:
        scene: with three digits or more.
        task: ``image``: which digits and which colours there are, each once; ``region``: the digit or the colour in a
            box.
        rng: of what is asked about.
    """
    if task == IMAGE:
        values, named = {one.value for one in scene.digits}, {one.colour for one in scene.digits}
        digits = ", ".join(word for value, word in enumerate(DIGITS) if value in values)
        colours = ", ".join(word for word in COLOURS if word in named)
        asked = [Asked(IMAGE, ASK_DIGITS, digits), Asked(IMAGE, ASK_COLOURS, colours)]
    else:
        first, second, third = rng.sample(scene.digits, 3)
        asked = [Asked(REGION, ASK_DIGIT, DIGITS[one.value], one.box) for one in (first, second)]
        asked.append(Asked(REGION, ASK_COLOUR, third.colour, third.box))
    rng.shuffle(asked)
    return asked


def record_of(name: str, asked: Sequence[Asked]) -> dict[str, Any]:
    """A conversation in LLaVA's format.

    Args:
        name: of the image.
        asked: all of one task.
    """
    turns = []
    for one in asked:
        turns += [{"from": "human", "value": one.text}, {"from": "gpt", "value": one.answer}]
    turns[0]["value"] = "<image>\n" + turns[0]["value"]
    record: dict[str, Any] = {"id": f"{name}-{asked[0].task}", "image": name, "conversations": turns}
    if asked[0].task == REGION:
        record["regions"] = [list(one.box) for one in asked if one.box is not None]
    return record


def score(asked: Asked, answer: str) -> float:
    """Of a region 1 for the right word, of an image the F1 of the words that are named; 0 to 1."""
    wanted, given = _words(asked.answer), _words(answer)
    if asked.task == REGION:
        return float(wanted == given)
    both = len({*wanted} & {*given})
    return 2 * both / (len({*wanted}) + len({*given})) if both else 0.0


def _words(answer: str) -> list[str]:
    return [word for one in answer.lower().split(",") if (word := one.strip(" ."))]
