"""``pvit-ext data``: training files, one module a subcommand."""

from __future__ import annotations

from collections.abc import Sequence
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
    words = list(arguments)
    command = next((index for index, word in enumerate(words) if not word.startswith("-")), None)
    if command is None or words[command] != "data":
        return words
    after = words[command + 1 :]
    if not after or after[0] in (*COMMANDS, "-h", "--help"):
        return words
    return [*words[: command + 1], "check", *(word for word in after if word != "check")]
