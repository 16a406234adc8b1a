"""Names of images and masks in data files, looked up in the image folder."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from typing import Any

_SEPARATOR = re.compile(r"[/\\]")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


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
        raise ValueError(f"{what} is a path in the image folder, got {short(path)}")
    if not path.strip():
        raise ValueError(f"{what} is empty: leave the key out, or write null, where there is none")
    upwards = ".." in path and ".." in _SEPARATOR.split(path)
    if upwards or not path.strip("/.") or "\0" in path or path.startswith("/"):
        raise ValueError(f"{what} {short(path)} must stay inside the image folder: no absolute path, no '..'")
    if folder is None or find_file(folder, path) is None:
        if _DRIVE.match(path) or path.startswith("\\"):
            raise ValueError(f"{what} {short(path)} must stay inside the image folder: no absolute path, no '..'")
        if folder is not None:
            raise ValueError(f"{what} {short(path)} is not in the image folder {folder}")


def find_file(folder: str, name: str) -> str | None:
    """The file of this name: as it is written, else with Windows' separators, else in another form of Unicode.

    Any name that the system allows is tried first as it is. macOS writes decomposed accents (NFD), others do not.

    Args:
        folder: the image folder.
        name: relative to it.
    """
    path = f"{folder}/{name}"
    if os.path.isfile(path):  # Path.is_file raises for long names
        return path
    if name.isascii() and "\\" not in name:
        return None
    slashed = name.replace("\\", "/")
    forms = [slashed, *(unicodedata.normalize(form, slashed) for form in ("NFC", "NFD"))]
    return next((path for form in forms if os.path.isfile(path := f"{folder}/{form}")), None)


def plain_name(name: str) -> str:
    """One name for all under which :func:`find_file` may give the same file, such as ``a.jpg`` for ``./a.jpg``.

    Args:
        name: relative to the image folder.
    """
    return unicodedata.normalize("NFC", posixpath.normpath(name.replace("\\", "/")))


def path_of(folder: str, name: str) -> str:
    """The path of :func:`find_file`; of the name as it is written where there is none, for the error of reading it."""
    return find_file(folder, name) or f"{folder}/{name}"


def short(value: Any) -> str:
    """A value for an error message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
