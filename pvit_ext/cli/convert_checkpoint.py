"""``pvit-ext convert-checkpoint``: a checkpoint of the original PVIT."""

from __future__ import annotations

import argparse
from typing import Any

from pvit_ext.cli.options import add_region_options, log_progress, region_config


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "convert-checkpoint",
        help="import a checkpoint of the original PVIT",
        description="Write a checkpoint of the original PVIT as one of LLaVA with regions.",
    )
    parser.add_argument("source", metavar="SRC", help="folder of the original checkpoint")
    parser.add_argument("--base", metavar="DIR", help="the checkpoint that SRC is a delta on; none for whole weights")
    add_region_options(parser, ("weights", "embed_weights", "encoder_options"), required=("weights",))
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    from pvit_ext.tools.convert_pvit import convert_checkpoint

    log_progress()
    convert_checkpoint(args.source, region_config(args), args.out, args.base)
    print(f"{args.out}: LLaVA with PVIT's regions")
    return 0
