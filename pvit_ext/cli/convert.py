"""``pvit-ext convert``: a LLaVA checkpoint from one host to the other."""

from __future__ import annotations

import argparse
from typing import Any

from pvit_ext.cli.options import log_progress

HOSTS = ("transformers", "llava")


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "convert",
        help="move a checkpoint between LLaVA's own code and transformers",
        description="Write a LLaVA-1.5 or 1.6 checkpoint, with regions or without, as one of the other host. Weights "
        "stay bit for bit and are never all in memory.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder of a whole checkpoint")
    parser.add_argument("--to", required=True, choices=HOSTS, help="the host that shall load it")
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--vision-tower",
        metavar="NAME",
        help="with --to llava, path or hub id of the CLIP tower; default one written from the checkpoint's tensors",
    )
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    log_progress()
    if args.to == "transformers":
        if args.vision_tower is not None:
            raise ValueError("--vision-tower applies with --to llava: the other way the checkpoint names its tower")
        from pvit_ext.tools.convert.to_transformers import to_transformers

        to_transformers(args.checkpoint, args.out)
    else:
        from pvit_ext.tools.convert.to_llava import to_llava_checkpoint

        to_llava_checkpoint(args.checkpoint, args.out, args.vision_tower)
    print(f"{args.out}: a checkpoint of the host {args.to}")
    return 0
