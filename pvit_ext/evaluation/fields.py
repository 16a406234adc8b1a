"""Fields of items of data files: what is no text is refused, and not asked or scored as ``None``."""

from __future__ import annotations

from typing import Any

from pvit_ext.data.image_files import short


def given(item: Any, name: str) -> Any:
    """A field that is not null.

    Raises:
        KeyError: without it.
        TypeError: where it is null, or the item has no fields.
    """
    if (value := item[name]) is None:
        raise TypeError(f"{name} is null")
    return value


def text_of(item: Any, name: str) -> str:
    """A field that is a text.

    Raises:
        KeyError: without it.
        TypeError: where it is something else, or the item has no fields.
    """
    return as_text(item[name], name)


def as_text(value: Any, name: str) -> str:
    """A value that is a text.

    Raises:
        TypeError: where it is something else.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text but {short(value)}")
    return value


def texts_of(item: Any, name: str) -> list[str]:
    """A field that is a list of texts.

    Raises:
        KeyError: without it.
        TypeError: where it is something else, or the item has no fields.
    """
    if not isinstance(values := item[name], list):
        raise TypeError(f"{name} is no list but {short(values)}")
    return [as_text(value, f"{name} {number}") for number, value in enumerate(values)]
