"""``pvit-ext data cache``: the maps of a region encoder's tower, made once for all epochs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pvit_ext.cli.options import add_map_options, add_region_options, log_progress, region_config


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "cache",
        help="store what a region encoder's frozen tower makes of the images of a training file",
        description="Store the maps that the region encoder's own frozen tower makes of each image with a region, for "
        "training with --region_cache DIR. Boxes may still move. DIR appears when it is complete; an interrupted call "
        "goes on where it stood. Bytes per image and in all are printed first.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the training file")
    parser.add_argument("--image-folder", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="print what it will take, and stop")
    add_region_options(parser, ("encoder", "weights", "encoder_options"))
    parser.add_argument(
        "--region-modules", type=Path, metavar="DIR", help="that name the encoder, instead of the three flags above"
    )
    parser.add_argument(
        "--dtype",
        default="bfloat16",
        choices=("bfloat16", "float16", "float32"),
        help="that the run will compute in: bfloat16 (default) with --bf16, float32 without",
    )
    parser.add_argument("--device", default="cpu", help="that the tower runs on, such as cuda (default %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch in each worker (default torch's own number)")
    add_map_options(parser)
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    import torch

    from pvit_ext.data.cache.tower import TowerSource
    from pvit_ext.data.cache.writer import CacheJob, fill_cache, plan_cache

    log_progress()
    if args.threads is not None and args.threads < 1:
        raise ValueError(f"--threads is 1 or more, got {args.threads}")
    job = CacheJob(
        file=args.file,
        image_folder=args.image_folder,
        out=args.out,
        source=TowerSource.of(region_config(args), args.region_modules, needs_weights=not args.dry_run),
        dtype=args.dtype,
        device=args.device,
        threads=args.threads or torch.get_num_threads(),
        workers=args.workers,
        backend=args.backend,
        max_bad_records=args.max_bad_records,
    )
    plan = plan_cache(job)
    print(plan.describe(), flush=True)
    if not args.dry_run:
        fill_cache(job, plan)
        print(args.out)
    return 0
