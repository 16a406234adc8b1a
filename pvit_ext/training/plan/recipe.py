"""The flags of a recipe, given by the recipe itself: it hands them to ``$ENTRY`` in place of training."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

_PRINTER = "printf %s\\0"
"""The program of that name, which ends every flag with a zero byte, the one that no flag can hold."""
_OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


def flags_of(recipe: str, words: Sequence[str] = ()) -> list[str]:
    """The flags that a recipe would train with.

    Args:
        recipe: file like ``recipes/stage1.sh``.
        words: flags on top of its own.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file knows no ``ENTRY``, and would train, or gives no flags.
    """
    path = Path(recipe)
    if not path.is_file():
        raise FileNotFoundError(f"{recipe}: no such recipe; `pvit-ext recipes --to DIR` writes stage1.sh and others")
    if not _knows_entry(path):
        raise ValueError(
            f"{recipe} does not hand its flags to ENTRY, so it would start to train: write `exec "
            "${ENTRY:-python -u -m pvit_ext.train}` as recipes/stage1.sh does"
        )
    given = {key: value for key, value in os.environ.items() if key not in _OF_A_LAUNCHER}
    command = ["bash", str(path), *words]
    done = subprocess.run(command, env={**given, "ENTRY": _PRINTER}, capture_output=True, text=True, check=False)
    found = done.stdout.split("\0")[:-1]
    if done.returncode or not found or not found[0].startswith("--"):
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ValueError(f"{recipe} gave no flags (exit status {done.returncode}): {said[-1] if said else 'no output'}")
    return found


def _knows_entry(path: Path) -> bool:
    """Whether a recipe, or one beside it that it hands over to, names ``ENTRY``."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if "ENTRY" in text:
        return True
    beside = {path.parent / name for name in re.findall(r"[\w.-]+\.sh", text)} - {path}
    return any(other.is_file() and "ENTRY" in other.read_text(encoding="utf-8", errors="replace") for other in beside)
