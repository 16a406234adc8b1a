"""Fields of source files, checked as they are taken: an error says what was found and what the format expects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pvit_ext.data.convert.notes import BadItem
from pvit_ext.data.image_files import short

__all__ = ["clean", "declared_size", "is_set", "kept", "short", "take"]

_MARKS = {"": False, "0": False, "false": False, "1": True, "true": True}
_NAMES = {str: "text", int: "a whole number", list: "a list", dict: "an object", float: "a number"}


def take(item: Mapping[str, Any], key: str, *kinds: type) -> Any:
    """A field that must be there.

    Args:
        item: of the source.
        key: of the field.
        kinds: of which one it must be; ``float`` takes whole numbers too, ``int`` no true or false.

    Raises:
        BadItem: if it is missing or of another kind.
    """
    if not isinstance(item, Mapping):
        raise BadItem(f"expected an object with {key!r}, got {short(item)}")
    if key not in item:
        raise BadItem(f"{key!r} is missing; there are {short(sorted(map(str, item)))}")
    return kept(item[key], repr(key), *kinds)


def kept(value: Any, what: str, *kinds: type) -> Any:
    """The value itself.

    Args:
        value: of the source.
        what: names it in the error.
        kinds: of which one it must be, see :func:`take`.

    Raises:
        BadItem: if it is of none of them.
    """
    right = kinds + ((int,) if float in kinds else ())
    if not isinstance(value, right) or (isinstance(value, bool) and bool not in kinds):
        raise BadItem(f"{what} is {' or '.join(_NAMES.get(kind, kind.__name__) for kind in kinds)}, got {short(value)}")
    return value


def declared_size(item: Mapping[str, Any], width: str = "width", height: str = "height") -> tuple[Any, Any] | None:
    """The size that an item gives of its image, as it stands there; None where a side is missing, null or 0.

    Args:
        item: of the source.
        width, height: the keys.
    """
    sides = item.get(width), item.get(height)
    return sides if all(side is not None and side != 0 for side in sides) else None


def clean(text: Any) -> str:
    """Text on one line, without blanks at its ends or several in a row; empty for what is no text."""
    return " ".join(text.split()) if isinstance(text, str) else ""


def is_set(item: Mapping[str, Any], key: str) -> bool:
    """Whether a mark such as ``iscrowd`` is set: true, a number other than 0, or text of these; not if it is missing.

    Args:
        item: of the source.
        key: of the mark.

    Raises:
        BadItem: for other text, and for lists or objects.
    """
    value = item.get(key)
    if value is None or isinstance(value, (bool, int, float)):
        return bool(value)
    if (found := _MARKS.get(clean(value).lower()) if isinstance(value, str) else None) is None:
        raise BadItem(f"{key} is 0 or 1, got {short(value)}")
    return found
