"""Whether values that were read from JSON have the types that a dataclass names: ``"no"`` would count as true."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_UNIONS = (Union, UnionType)
_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "an object",
    type(None): "null",
}


def check_types(kind: type[Any], values: Mapping[str, Any], name: str) -> None:
    """Refuse a value whose type is not that of its field.

    Args:
        kind: dataclass; fields whose types are imported for type checkers alone are not looked at.
        values: by field.
        name: of what the values are for, in messages.

    Raises:
        ValueError: naming the field, with what it takes and what it got.
    """
    try:
        hints = get_type_hints(kind)
    except NameError:
        return
    for field, value in values.items():
        if field in hints and not _fits(value, hints[field]):
            raise ValueError(f"{name} {field!r} is {_words(hints[field])}, got {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    """A whole number is a float too, and True is neither; types that JSON does not have fit anything.

    Named values are not all: peft's have patterns among them. Who reads them refuses others.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in _UNIONS:
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return type(value) in map(type, inner)
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            return False
        items = inner if origin is tuple and inner[-1] is not ... else inner[:1] * len(value)
        return len(value) == len(items) and all(map(_fits, value, items))
    if origin is dict:
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    if hint in (int, float) and isinstance(value, bool):
        return False
    plain = origin or hint
    return plain not in _WORDS or isinstance(value, (int, float) if plain is float else plain)


def _words(hint: Any) -> str:
    """A type as users write its values."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in _UNIONS:
        return " or ".join(dict.fromkeys(map(_words, inner)))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (list, tuple):
        fixed = origin is tuple and inner[-1] is not ...
        return f"a list of {len(inner)}" if fixed else f"a list ({_words(inner[0])} each)"
    if origin is dict and inner[1] is not Any:
        return f"an object ({_words(inner[1])} each)"
    return _WORDS.get(origin or hint, getattr(hint, "__name__", str(hint)))
