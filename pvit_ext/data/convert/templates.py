"""Questions of the default task, in our own words, and the choice of one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

VERSION = 1
"""Grows when a template changes: the same seed then gives other questions."""

NAME = (
    "What is <region>?",
    "What do you see in <region>?",
    "Name the object in <region>.",
    "What kind of thing does <region> show?",
    "Which object is marked by <region>?",
    "Say in a word or two what <region> is.",
    "Identify what is inside <region>.",
    "What would you call the thing in <region>?",
)
DESCRIBE = (
    "Describe <region>.",
    "What can you say about <region>?",
    "Write a short description of <region>.",
    "Tell me what is going on in <region>.",
    "Give a phrase that describes <region>.",
    "How would you describe <region> to somebody who cannot see it?",
)
CAPTION = (
    "Describe the image.",
    "What does the image show?",
    "Write one sentence about this image.",
    "Give a short caption for the image.",
    "What is going on here?",
    "Sum up the image in a sentence.",
)


def pick(choices: Sequence[str], seed: int, *names: object) -> str:
    """One of several texts, always the same for the same seed and names, on any machine.

    Args:
        choices: one or more.
        seed: of the conversion.
        names: of what it is for, such as the image's item and the object's place.
    """
    digest = hashlib.blake2b(repr((seed, *names)).encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return choices[int.from_bytes(digest, "big") % len(choices)]
