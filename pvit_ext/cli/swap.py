"""``pvit-ext swap``: another region encoder in a checkpoint on disk."""

from __future__ import annotations

import argparse
from typing import Any

from pvit_ext.cli.options import json_object, log_progress


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "swap",
        help="write a checkpoint with another region encoder",
        description="Write a checkpoint with another region encoder. Everything else stays bit for bit; the language "
        "model is never loaded. The region projector stays where its width fits.",
    )
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="folder of a LLaVA checkpoint, with regions or without"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    parser.add_argument("--encoder", required=True, metavar="NAME", help="as `pvit-ext doctor` lists them")
    parser.add_argument("--weights", metavar="FILE", help="the encoder's own weights")
    parser.add_argument("--embed-weights", action="store_true", help="copy them into the checkpoint")
    parser.add_argument("--options", type=json_object, default={}, metavar="JSON", help="the encoder's options")
    parser.add_argument("--projector", default="linear", choices=("linear", "mlp2x_gelu"))
    parser.add_argument("--box-embedding", action="store_true", help="add an embedding of the normalised box")
    parser.add_argument("--no-delimiters", action="store_true", help="no learned embeddings around each region")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the new modules' random values, default 0")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    import torch

    from pvit_ext.config import RegionConfig
    from pvit_ext.tools.swap import swap_encoder

    log_progress()
    torch.manual_seed(args.seed)
    config = RegionConfig(
        encoder=args.encoder,
        weights=args.weights,
        embed_weights=args.embed_weights,
        projector=args.projector,
        box_embedding=args.box_embedding,
        delimiters=False if args.no_delimiters else None,
        encoder_options=args.options,
    )
    swap_encoder(args.checkpoint, config, args.out)
    print(f"{args.out}: LLaVA with region encoder {args.encoder}")
    return 0
