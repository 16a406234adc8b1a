"""Names of images and masks in data files, looked up in the image folder."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import Any


def check_file(path: Any, what: str, folder: str | None) -> None:
    """Refuse a name that leads out of the image folder, or to no file in it.

    Args:
        path: as it stands in the record.
        what: names it in error messages.
        folder: the image folder; None: the file need not exist.

    Raises:
        ValueError: saying what is wrong.
    """
    if not isinstance(path, str):
        raise ValueError(f"{what} is a path in the image folder, got {_short(path)}")
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if not parts or "\0" in path or parts[0] == "/" or ":" in parts[0] or ".." in parts:
        raise ValueError(f"{what} {_short(path)} must stay inside the image folder: no absolute path, no '..'")
    if folder is not None and not os.path.isfile(os.path.join(folder, path)):  # Path.is_file raises for long names
        raise ValueError(f"{what} {_short(path)} is not in the image folder {folder}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
