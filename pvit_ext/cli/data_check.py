"""``pvit-ext data check``: every problem of a training file, and what it holds."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser of ``pvit-ext data``."""
    parser = commands.add_parser(
        "check",
        help="print every problem of a training file and what it holds",
        description="Check a training file: every problem with its line, then how many records, images and regions of "
        "which kinds were found. `pvit-ext data FILE` is `pvit-ext data check FILE`.",
    )
    parser.add_argument("file", metavar="FILE", help="LLaVA's JSON, with `regions` in its records")
    parser.add_argument("--image-folder", required=True, metavar="DIR", help="folder of the images")
    parser.add_argument(
        "--no-images", action="store_true", help="do not open the images; their files must be there all the same"
    )
    parser.add_argument("--decode", action="store_true", help="decode every image, which finds truncated ones")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    from pvit_ext.data.check import check

    path = args.file
    if args.decode and args.no_images:
        raise ValueError("--decode and --no-images exclude each other")
    problems, summary = check(path, args.image_folder, check_images=not args.no_images, decode=args.decode)
    for problem in problems:
        print(problem)
    print(f"{path}: {len(problems)} problem(s)" if problems else f"{path}: no problems")
    print(f"{path}: {summary}")
    if summary.records and not summary.regions:
        print(f"{path}: no record has a region; stage 1 (--stage align) has nothing to learn from it")
    return 1 if problems else 0
