"""The options of :class:`~pvit_ext.config.RegionConfig` as flags: every command spells them the same."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from pvit_ext.config import RegionConfig

_OF_RECIPES = ("encoder", "weights")
"""Options that a recipe takes from the environment."""


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


def as_training_flags(config: RegionConfig, names: Iterable[str]) -> str:
    """The flags and recipe variables that say what a config has; a recipe's own flags cannot be left out.

    Args:
        config: of what is there.
        names: of the options to say.
    """
    flags, variables = [], []
    for name in names:
        value = getattr(config, name)
        if value is None and name != "weights":
            flags.append(f"no --region_{name}")
            continue
        word = shlex.quote(json.dumps(value) if isinstance(value, dict) else str("" if value is None else value))
        flags.append(f"--region_{name} {word}")
        variables += [f"REGION_{name.upper()}={word}"] if name in _OF_RECIPES else []
    return " ".join(flags) + (f" (of a recipe {' '.join(variables)})" if variables else "")


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
