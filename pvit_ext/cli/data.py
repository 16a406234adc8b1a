"""``pvit-ext data``: training files, one module a subcommand."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pvit_ext.cli import data_cache, data_check, data_convert, data_generate, data_mix, data_show, data_split, data_tags

COMMANDS = {
    "cache": data_cache,
    "check": data_check,
    "convert": data_convert,
    "generate": data_generate,
    "mix": data_mix,
    "show": data_show,
    "split": data_split,
    "tags": data_tags,
}
"""A module has ``add(commands)``, and imports what it needs when it runs."""


def add(commands: Any) -> None:
    """Add the command, with its subcommands, to a parser's subcommands."""
    parser = commands.add_parser(
        "data",
        help="make and check training files",
        description="Training files. `pvit-ext data FILE` is `pvit-ext data check FILE`.",
    )
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS.values():
        module.add(subcommands)


def name_subcommand(arguments: Sequence[str]) -> list[str]:
    """The command line with ``check`` put in where ``data`` is followed by no subcommand.

    Args:
        arguments: of ``pvit-ext``, without ``--plugin``.
    """
    after = _behind_data(arguments)
    if not after or after[0] in (*COMMANDS, "-h", "--help"):
        return list(arguments)
    return [*arguments[: -len(after)], "check", *(word for word in after if word != "check")]


def check_subcommand(arguments: Sequence[str]) -> None:
    """Refuse a misspelt subcommand, which :func:`name_subcommand` would take for the file to check.

    Args:
        arguments: of ``pvit-ext``, without ``--plugin``.

    Raises:
        ValueError: with the nearest subcommand.
    """
    word = next(iter(_behind_data(arguments)), "-")
    path = Path(word)
    if word in COMMANDS or word.startswith("-") or path.suffix or len(path.parts) > 1 or path.exists():
        return
    near = difflib.get_close_matches(word, COMMANDS, 1)
    raise ValueError(
        f"no command {word!r} of data; it has {', '.join(COMMANDS)}{f': is it {near[0]}?' if near else ''} (and there "
        "is no such file to check)"
    )


def _behind_data(arguments: Sequence[str]) -> Sequence[str]:
    """The words behind ``data``, where that is the command."""
    command = next((index for index, word in enumerate(arguments) if not word.startswith("-")), None)
    return () if command is None or arguments[command] != "data" else arguments[command + 1 :]
