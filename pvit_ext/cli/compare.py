"""``pvit-ext compare``: every region encoder trained on a small world, in a checkout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

COMPARISON = Path("examples/compare/run.py")


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "compare",
        help="train every region encoder on a small world; needs a checkout",
        description="Train every region encoder on drawn scenes and write a table, CSV and a plot of what each learns, "
        "in about an hour on 2 CPU cores. Rows that are finished are kept. It runs in a checkout of the repository.",
    )
    parser.add_argument("--encoders", metavar="A,B", help="rows of the table to train, default all")
    parser.add_argument("--budget", default="full", help="full, small, or a part of the full one such as 0.02")
    parser.add_argument("--output", type=Path, default=Path("runs/compare"), metavar="DIR", help="default %(default)s")
    parser.add_argument("--pages", type=Path, metavar="DIR", help="folder for table, CSV and plot, default --output")
    parser.add_argument("--fresh", action="store_true", help="train finished rows again")
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    checkout = next((root for root in (Path.cwd(), Path(__file__).parents[2]) if (root / COMPARISON).is_file()), None)
    if checkout is None:
        raise FileNotFoundError(
            f"`pvit-ext compare` runs in a checkout of pvit-ext, and {Path.cwd()} is none ({COMPARISON} is missing): "
            'clone the repository, cd into it, pip install -e ".[quickstart]", and run it there'
        )
    sys.path.insert(0, str(checkout))
    from examples.compare.run import compare

    return compare(args.encoders, args.budget, args.output, args.pages, args.fresh, args.seed)
