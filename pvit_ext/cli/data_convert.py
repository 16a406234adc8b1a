"""``pvit-ext data convert``: annotations of others become records."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pvit_ext.cli.once import REPEATED
from pvit_ext.cli.options import add_leak_options, add_map_options, check_leak_options, list_settings, name_values


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "convert",
        help="turn COCO, VOC, YOLO and other annotations into a training file",
        description="Turn annotations into JSON Lines that train. FORMAT is a name of --formats, or `auto`. FILE "
        "appears when it is complete, with FILE.report.json and FILE.dropped.jsonl, which say what was left out and "
        "why. An interrupted conversion continues where it stopped.",
    )
    parser.add_argument("format", nargs="?", metavar="FORMAT", help="a name of --formats, or auto")
    parser.add_argument("source", nargs="?", type=Path, metavar="SOURCE", help="file or folder")
    parser.add_argument("--image-folder", type=Path, metavar="DIR", help="folder of the images")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the training file, JSON Lines")
    parser.add_argument(
        "--detect", type=Path, metavar="SOURCE", help="say which format a source is of, and stop (1: of none)"
    )
    parser.add_argument("--formats", action="store_true", help="list the formats and their settings, and stop")
    parser.add_argument(
        "--task",
        action="append",
        metavar="NAME[,NAME]",
        help=f"what to ask, see --tasks; `all` for every task (default: what the source says, once); {REPEATED}",
    )
    parser.add_argument("--tasks", action="store_true", help="list the tasks and what they need, and stop")
    parser.add_argument("--negatives", action="store_true", help="also ask about what is not there, with the answer")
    parser.add_argument(
        "--box-jitter",
        "--box_jitter",
        type=float,
        default=0.0,
        metavar="PART",
        help="move each side of a box by up to this part of its size (default 0)",
    )
    parser.add_argument(
        "--box-text",
        "--box_text",
        default="fractions",
        metavar="NAME",
        help="boxes in answers: fractions (default), thousandths or pixels",
    )
    add_leak_options(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"a setting of the format, see --formats; {REPEATED}",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of wordings (default 0)")
    parser.add_argument("--turns", type=int, default=10, metavar="N", help="questions in a record, 0: all (default 10)")
    parser.add_argument("--boxes", action="store_true", help="write the box around a mask or outline instead of it")
    parser.add_argument("--no-source", action="store_true", help="keep only conversations and regions in the records")
    parser.add_argument("--no-images", action="store_true", help="trust names and sizes of the source, open no image")
    add_map_options(parser)
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    from pvit_ext.data.convert.detect import describe, detect
    from pvit_ext.data.convert.run import Job, convert
    from pvit_ext.data.tasks.selection import DEFAULT

    if args.formats:
        print(_formats())
        return 0
    if args.tasks:
        print(_tasks())
        return 0
    if args.detect and args.format:
        raise ValueError("--detect SOURCE says which format it is, and stops: leave FORMAT and SOURCE out")
    if args.detect:
        found = detect(args.detect)
        print(describe(args.detect, found))
        return 0 if found else 1
    if args.format is None or args.source is None or args.image_folder is None or args.out is None:
        raise ValueError("give FORMAT SOURCE --image-folder DIR --out FILE, or --detect SOURCE, --formats or --tasks")
    if not args.source.exists():
        raise ValueError(f"{args.source}: there is no such file or folder")
    check_leak_options(args)
    job = Job(
        format=args.format,
        source=args.source,
        image_folder=args.image_folder,
        out=args.out,
        settings=name_values(args.set),
        seed=args.seed,
        turns=args.turns,
        boxes=args.boxes,
        keep_source=not args.no_source,
        open_images=not args.no_images,
        max_bad_records=args.max_bad_records,
        workers=args.workers,
        backend=args.backend,
        tasks=args.task or (DEFAULT,),
        negatives=args.negatives,
        box_jitter=args.box_jitter,
        box_text=args.box_text,
        exclude_leaks=args.exclude_leaks,
        held_out=args.held_out,
    )
    print(f"{args.out}\n{convert(job)}")
    return 0


def _formats() -> str:
    from pvit_ext.data.convert.base import FORMATS

    return list_settings(FORMATS, 14)


def _tasks() -> str:
    from pvit_ext.data.tasks.base import TASKS

    tasks = [(name, TASKS.require(name)) for name in TASKS.names()]
    return "\n".join(f"{name:<16} {task.about}; needs {task.needs}" for name, task in tasks)
