"""``<hint>`` in a prompt of a model that has no hint vector: ordinary text, which is said."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pvit_ext.prompt import HINT_PLACEHOLDER

logger = logging.getLogger(__name__)
_SAID = 5
_said: list[str] = []
"""The first samples of this process in which ``<hint>`` was text."""


def say_hint_is_text(texts: Sequence[str], name: str) -> None:
    """Log that ``<hint>`` in a sample is ordinary text, for the first few samples of a process, once each.

    Args:
        texts: of the sample.
        name: of the sample.
    """
    if len(_said) >= _SAID or name in _said:
        return
    if any(HINT_PLACEHOLDER in text for text in texts):
        _said.append(name)
        reason = "the model has no hint vector (lion_tags='hint')"
        logger.warning("%s: %s in its prompt is ordinary text, because %s", name, HINT_PLACEHOLDER, reason)
