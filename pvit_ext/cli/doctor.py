"""``pvit-ext doctor``: what is installed, which hosts can be used, and what a checkpoint holds."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "doctor",
        help="versions, LLaVA, patch points, attention; says what is broken and why",
        description="Print versions, LLaVA's modules and patch points, the hosts and the backends of attention: what "
        "can be used here, and why the rest cannot. Exit status 0: LLaVA, or the host of CHECKPOINT, can be used with "
        "regions; 1: it cannot.",
    )
    parser.add_argument(
        "checkpoint", nargs="?", metavar="CHECKPOINT", help="also say what this folder holds, and whether it loads here"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    from pvit_ext.tools import doctor

    return doctor.main(as_json=args.json, checkpoint=args.checkpoint)
