"""The whole command line, and what becomes of errors. Commands import what they need when they run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from pvit_ext.cli import (
    ask,
    compare,
    convert,
    convert_checkpoint,
    data,
    demo,
    doctor,
    eval,
    merge,
    plan,
    recipes,
    serve,
    swap,
)
from pvit_ext.cli.once import REPEATED, Parser
from pvit_ext.plugins import FLAG, take_plugins

COMMANDS = (ask, demo, serve, swap, merge, convert, convert_checkpoint, data, eval, plan, recipes, doctor, compare)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: arguments without the program's name, default those of the process.

    Returns:
        Exit status: 0, 1 where the subcommand found problems, 2 for an error of the user's input.
    """
    parser = build_parser()
    try:
        words = take_plugins(sys.argv[1:] if argv is None else argv)
        data.check_subcommand(words)
        words = data.name_subcommand(words)
        args, more = parser.parse_known_args(words)
    except ValueError as error:
        parser.error(str(error))
    if more and not hasattr(args, "takes_more"):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    args.more = more
    try:
        status: int = args.handler(args)
    except Exception as error:
        from pvit_ext.hosts.user_errors import is_user_error

        if args.traceback or not is_user_error(error):
            raise
        print(f"pvit-ext: error: {error}", file=sys.stderr)
        return 2
    return status


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = Parser(prog="pvit-ext", description="Ask LLaVA about regions of an image.")
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="print the version and exit")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    parser.add_argument(
        FLAG,
        metavar="MODULE",
        help="import a module that registers something: region encoders, vision towers, hosts, LoRA methods, data "
        f"formats, data tasks or eval tasks; anywhere on the line, {REPEATED}",
    )
    parser.add_argument(
        "--local_rank", help=argparse.SUPPRESS
    )  # deepspeed's launcher writes it; it sets LOCAL_RANK too
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


class _PrintVersion(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        import pvit_ext

        print(f"pvit-ext {pvit_ext.__version__}")
        parser.exit()
