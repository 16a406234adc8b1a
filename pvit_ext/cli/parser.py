"""The whole command line, and what becomes of errors. Commands import what they need when they run."""

from __future__ import annotations

import argparse
import os
import select
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
from pvit_ext.hosts.pillow_advice import without_pillow_advice
from pvit_ext.plugins import FLAG, take_plugins

COMMANDS = (ask, demo, serve, swap, merge, convert, convert_checkpoint, data, eval, plan, recipes, doctor, compare)
_CLOSED = 141
"""What a shell reports of a program that a closed pipe ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: arguments without the program's name, default those of the process.

    Returns:
        Exit status: 0, 1 where the subcommand found problems, 2 for an error of the user's input, 141 where the reader
        of its output, such as ``head``, has closed it.
    """
    try:
        status = _run(argv)
    except SystemExit:  # of --help, or a flag that is none
        _output_is_closed()
        raise
    except BrokenPipeError as error:  # of an older argparse's --help
        if not _ended_by_reader(error):
            raise
        return _CLOSED
    return _CLOSED if _output_is_closed() else status


def _run(argv: Sequence[str] | None) -> int:
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
        with without_pillow_advice():
            status: int = args.handler(args)
        if sys.stdout is not None:
            sys.stdout.flush()  # a full disk is an error of the command
    except Exception as error:
        from pvit_ext.hosts.user_errors import is_user_error

        if _ended_by_reader(error):
            return _CLOSED
        if args.traceback or not is_user_error(error):
            raise
        print(f"pvit-ext: error: {error}", file=sys.stderr)
        return 2
    return status


def _output_is_closed() -> bool:
    """Whether what was printed found no reader any more; what cannot be written goes nowhere, or Python complains."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return isinstance(error, BrokenPipeError)
    return False


def _ended_by_reader(error: Exception) -> bool:
    """Whether an error says that the reader of the output is gone: other pipes, as to an endpoint, break alike."""
    if not isinstance(error, BrokenPipeError):
        return False
    if _output_is_closed():
        return True
    try:  # what is printed at one go may be lost with the error, so that nothing is left to flush
        watched = select.poll()
        watched.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in watched.poll(0))
    except (AttributeError, OSError):  # no poll, or an output without a file
        return False


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
