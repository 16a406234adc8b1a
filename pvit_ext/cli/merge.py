"""``pvit-ext merge``: what was trained on a checkpoint, as a whole checkpoint."""

from __future__ import annotations

import argparse
from typing import Any

from pvit_ext.cli.options import log_progress


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "merge",
        help="write a LoRA result or region modules as a whole checkpoint",
        description="Write a LoRA result (ours or LLaVA's), region modules of stage 1 or LLaVA's mm_projector, with "
        "everything under it, as a whole checkpoint. It takes the memory of the model.",
    )
    parser.add_argument("source", metavar="FOLDER", help="what was trained, or its hub id")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--base", metavar="DIR", help="checkpoint under it, default the one it names")
    parser.add_argument("--dtype", metavar="NAME", help="float16, bfloat16 or float32, default the lowest checkpoint's")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    from pvit_ext.tools.merge import merge_checkpoint

    log_progress()
    merge_checkpoint(args.source, args.out, args.base, args.dtype)
    print(f"{args.out}: a whole checkpoint, merged from {args.source}")
    return 0
