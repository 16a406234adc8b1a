"""``pvit-ext data cache``: outputs of frozen towers, made once for all epochs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pvit_ext.cli.options import add_map_options, add_region_options, count, flags_of, log_progress, region_config

_OF_ENCODER = ("encoder", "weights", "encoder_options")
_FLAGS = {"file": "FILE"}
_BY_RUN = ("file", "image_folder", *_OF_ENCODER, "region_modules", "dtype")


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "cache",
        help="store the outputs of frozen towers for the images of a training file",
        description="Store the outputs of frozen towers for each image, for training with --region_cache DIR. With "
        "--run these are the model's vision tower and the region encoder's own, by the flags of the run; without, only "
        "the region encoder's own. Boxes may still move. DIR appears when it is complete; an interrupted call "
        "continues where it stopped. Bytes per image and in all are printed first.",
    )
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="the training file, unless --run names it")
    parser.add_argument("--image-folder", type=Path, metavar="DIR", help="folder of the images, unless --run names it")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="print what it will take, and stop")
    add_region_options(parser, _OF_ENCODER)
    parser.add_argument(
        "--region-modules", type=Path, metavar="DIR", help="folder that names the encoder, instead of the flags above"
    )
    parser.add_argument(
        "--dtype",
        choices=("bfloat16", "float16", "float32"),
        help="in which the run will compute: bfloat16 (default) with --bf16, float32 without",
    )
    parser.add_argument("--device", default="cpu", help="for the towers, such as cuda (default %(default)s)")
    parser.add_argument(
        "--threads", type=count, metavar="N", help="torch's threads in each worker (default torch's own number)"
    )
    add_map_options(parser)
    parser.add_argument(
        "--run", nargs=argparse.REMAINDER, metavar="FLAGS",
        help="the last option: all that follows are the flags of the run, as `python -m pvit_ext.train` takes them",
    )  # fmt: skip
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    import torch

    log_progress()
    options = {
        "device": args.device,
        "threads": args.threads or torch.get_num_threads(),
        "workers": args.workers,
        "backend": args.backend,
        "max_bad_records": args.max_bad_records,
    }
    return _fill_for_run(args, options) if args.run is not None else _fill_encoder(args, options)


def _fill_encoder(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Store the maps of a region encoder's own tower."""
    from pvit_ext.data.cache.key import DTYPES
    from pvit_ext.data.cache.region_tower import RegionTowerSource
    from pvit_ext.data.cache.writer import CacheJob, fill_cache, plan_cache

    if args.file is None or args.image_folder is None:
        raise ValueError("give FILE and --image-folder, or --run and the flags of a run")
    if args.region_modules and (given := [name for name in _OF_ENCODER if getattr(args, name) is not None]):
        raise ValueError(
            f"{flags_of(given)}: --region-modules {args.region_modules} names the encoder; give one of both"
        )
    dtype = DTYPES[args.dtype or "bfloat16"]
    source = RegionTowerSource.of(region_config(args), dtype, args.region_modules, needs_weights=not args.dry_run)
    job = CacheJob(args.file, args.image_folder, args.out, source, **options)
    plan = plan_cache(job)
    print(plan.describe(), flush=True)
    if not args.dry_run:
        fill_cache(job, plan)
        print(args.out)
    return 0


def _fill_for_run(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Store the outputs of a run's frozen towers."""
    from pvit_ext.data.cache.parts import fill_parts
    from pvit_ext.data.cache.writer import plan_cache
    from pvit_ext.training.cache_run import jobs_of_run

    if given := [name for name in _BY_RUN if getattr(args, name) is not None]:
        raise ValueError(f"{flags_of(given, _FLAGS)}: --run takes this from the flags of the run, leave it out")
    if not args.run:
        raise ValueError("--run: the flags of the run are missing, such as --model_name_or_path and --data_path")
    if args.out.exists():
        raise ValueError(f"{args.out} exists: name a new folder, nothing is overwritten")
    plans = [(job, plan_cache(job)) for job in jobs_of_run(args.out, args.run, **options)]
    for job, plan in plans:
        print(f"{job.out.name}: {plan.describe()}", flush=True)
    if not args.dry_run:
        fill_parts(args.out, plans)
        print(args.out)
    return 0
