"""The options of :class:`~pvit_ext.config.RegionConfig` as flags: every command spells them the same."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from pvit_ext.config import RegionConfig


class Option(NamedTuple):
    """One field of :class:`RegionConfig` as a flag.

    Args:
        name: of the field; a flag that is not given is None.
        kind: ``str``, ``int``, ``bool``, or ``dict`` for a JSON object.
        help: one line.
        choices: the valid values, or None.
    """

    name: str
    kind: type
    help: str
    choices: tuple[str, ...] | None


def options() -> list[Option]:
    """The options of region modules that a command line sets."""
    hints = get_type_hints(RegionConfig)
    found = []
    for item in fields(RegionConfig):
        if "help" in item.metadata:
            hint = hints[item.name]
            kinds = [get_origin(kind) or kind for kind in get_args(hint) if kind is not type(None)]
            kind = kinds[0] if kinds else hint
            found.append(Option(item.name, kind, item.metadata["help"], item.metadata.get("choices")))
    return found


def json_object(text: str, flag: str = "", example: str = "") -> dict[str, Any]:
    """The JSON object that a user wrote.

    Args:
        text: as given.
        flag: that it was given to, for messages.
        example: of a right one, for messages.

    Raises:
        ValueError: for text that is no JSON object, or gives a key twice.
    """
    given = f"{flag} {text!r}".lstrip()

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{given} gives {', '.join(twice)} twice, and the last would win: drop one")
        return dict(pairs)

    try:
        value = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise ValueError(f"{given} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{given} is no JSON object{example and f', such as {example!r}'}")
    return value
