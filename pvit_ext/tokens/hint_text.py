"""``<hint>`` in a prompt of a model that has no hint vector: ordinary text, which is said, unless it is a token."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pvit_ext.prompt import HINT_PLACEHOLDER
from pvit_ext.regions.region import RegionError

logger = logging.getLogger(__name__)
_SAID = 5
_said: list[str] = []
"""The first samples of this process in which ``<hint>`` was text."""


def refuse_unread(texts: Sequence[str], unread: Sequence[str], name: str) -> None:
    """Refuse placeholders that the model would read as a row of its embedding which nobody trained.

    Args:
        texts: of the sample.
        unread: tokens of the model's tokenizer that its region modules have no use for.
        name: of the sample.

    Raises:
        RegionError: naming the sample.
    """
    if found := [token for token in unread if any(token in text for text in texts)]:
        raise RegionError(
            f"{name}: {found[0]} is a token of the tokenizer, and the model has no use for it: take it out, or attach "
            "with the processor of a checkpoint that never had it"
        )


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
