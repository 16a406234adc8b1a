"""``pvit-ext data``: training files, checked."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser("data", help="check a training file and print every problem")
    parser.add_argument("file", metavar="FILE", help="LLaVA's JSON, with `regions` in its samples")
    parser.add_argument("--image-folder", required=True, metavar="DIR")
    parser.add_argument("--no-images", action="store_true", help="do not open the images")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    from pvit_ext.data.records import validate

    problems = validate(args.file, args.image_folder, check_images=not args.no_images)
    for problem in problems:
        print(problem)
    print(f"{args.file}: {len(problems)} problem(s)" if problems else f"{args.file}: no problems")
    return 1 if problems else 0
