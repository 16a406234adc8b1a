"""What several commands share: types of options, and progress on the terminal."""

from __future__ import annotations

import argparse
import json
import logging
from typing import Any


def json_object(text: str) -> dict[str, Any]:
    """A JSON object as the type of an option."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")
    return value


def log_progress() -> None:
    """Show what the package logs about its progress."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("pvit_ext").setLevel(logging.INFO)
