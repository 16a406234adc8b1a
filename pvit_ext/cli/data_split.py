"""``pvit-ext data split``: a training file in parts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "split",
        help="split a training file by photograph",
        description="Write parts of a training file, such that no photograph is in two of them, nor a copy of it that "
        "Roboflow augmented (`NAME_jpg.rf.HASH.jpg`).",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the training file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for NAME.jsonl of each part")
    parser.add_argument("--parts", default="train=0.9,val=0.1", help="names and fractions (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice (default 0)")
    parser.add_argument(
        "--photograph", metavar="PATTERN", help="regular expression of image names; its first group is the photograph"
    )
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    from pvit_ext.data.held_out import reported
    from pvit_ext.data.split import PHOTOGRAPH, parse_parts, split_file
    from pvit_ext.data.summary import counted

    found = split_file(args.file, args.out, parse_parts(args.parts), args.seed, args.photograph or PHOTOGRAPH)
    for name, (records, photographs) in found.items():
        print(f"{args.out / name}.jsonl: {counted(records, 'record')} of {counted(photographs, 'photograph')}")
    for warning in reported([args.file])[1]:
        print(warning)
    return 0
