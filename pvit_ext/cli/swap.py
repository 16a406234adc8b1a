"""``pvit-ext swap``: another region encoder in a checkpoint on disk."""

from __future__ import annotations

import argparse
from typing import Any

from pvit_ext.cli.options import add_region_options, log_progress, region_config


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "swap",
        help="write a checkpoint with another region encoder",
        description="Write a checkpoint with another region encoder. Everything else stays bit for bit; the language "
        "model is never loaded. What no flag says stays as it is in CHECKPOINT: all that the encoder and the region "
        "projector have learned, where the encoder is the same.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of a checkpoint, with regions or without")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    add_region_options(parser, required=("encoder",))
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the new modules' random values, default 0"
    )
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    import torch

    from pvit_ext.tools.swap import swap_encoder

    log_progress()
    torch.manual_seed(args.seed)
    swap_encoder(args.checkpoint, region_config(args), args.out)
    print(f"{args.out}: checkpoint with region encoder {args.encoder}")
    return 0
