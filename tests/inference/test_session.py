"""A session of a model: what is kept of its images."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pvit_ext import ImageFeatures
from pvit_ext.inference.session import shared_images


def test_a_host_that_does_not_say_how_its_tower_sees_is_asked_without_features() -> None:
    """The command keeps features by itself, so such a host could not be asked from a file."""
    chat: Any = SimpleNamespace()
    assert shared_images(chat, None, ImageFeatures(1)) is None
