"""Tags of scenes: true ones, ones as good as a real tagger's, and wrong ones; and lists in words, for the base."""

from __future__ import annotations

import random

from examples.quickstart.checkpoint import ASK_DIGITS
from examples.quickstart.language import Turn
from examples.quickstart.world import COLOURS, DIGITS, Scene
from pvit_ext.data.tags.tags import with_tags

QUALITIES = ("none", "true", "real", "wrong")
PRECISION, RECALL = 0.66, 0.60
"""FastestDet's on COCO's photographs."""
WORDS = (*DIGITS, *COLOURS)
_ASK_LIST = "Which tags are there?"


def tags_of(scene: Scene, quality: str, rng: random.Random) -> list[str]:
    """Digits and colours of a scene as tags, in random order.

    Args:
        scene: to tag.
        quality: ``none``; ``true``: all and only what is there; ``real``: true and wrong ones by lot, so that
            precision and recall are FastestDet's; ``wrong``: as many as there are true ones, none of them true.
        rng: of all that is drawn.
    """
    true = list(dict.fromkeys([word for one in scene.digits for word in (DIGITS[one.value], one.colour)]))
    others = [word for word in WORDS if word not in true]
    if quality == "true":
        found = true
    elif quality == "wrong":
        found = rng.sample(others, min(len(true), len(others)))
    elif quality == "real":
        found = [word for word in true if rng.random() < RECALL]
        false = len(true) * RECALL * (1 - PRECISION) / PRECISION / len(others)
        found += [word for word in others if rng.random() < false]
    else:
        found = []
    return rng.sample(found, len(found))


def list_turn(rng: random.Random) -> Turn:
    """A question about a list of tags, and the tags: a large language model reads lists, a tiny one has to learn it."""
    words = rng.sample(WORDS, rng.randint(2, 8))
    if rng.random() < 0.5:
        return with_tags(_ASK_LIST, words, "plain"), ", ".join(words)
    return with_tags(ASK_DIGITS, words, "plain"), ", ".join(word for word in words if word in DIGITS) or "none"
