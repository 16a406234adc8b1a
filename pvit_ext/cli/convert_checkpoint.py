"""``pvit-ext convert-checkpoint``: a checkpoint of the original PVIT."""

from __future__ import annotations

import argparse
from typing import Any

from pvit_ext.cli.options import json_object, log_progress


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "convert-checkpoint",
        help="import a checkpoint of the original PVIT",
        description="Write a checkpoint of the original PVIT as one of LLaVA with regions.",
    )
    parser.add_argument("source", metavar="SRC", help="folder of the original checkpoint")
    parser.add_argument("--base", metavar="DIR", help="the checkpoint that SRC is a delta on; none for whole weights")
    parser.add_argument("--region-weights", required=True, metavar="FILE", help="RegionCLIP's own weights")
    parser.add_argument("--embed-weights", action="store_true", help="copy them into the checkpoint")
    parser.add_argument("--options", type=json_object, default={}, metavar="JSON", help="RegionCLIP's options")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    from pvit_ext.config import RegionConfig
    from pvit_ext.tools.convert_pvit import convert_checkpoint

    log_progress()
    config = RegionConfig(weights=args.region_weights, embed_weights=args.embed_weights, encoder_options=args.options)
    convert_checkpoint(args.source, config, args.out, args.base)
    print(f"{args.out}: LLaVA with PVIT's regions")
    return 0
