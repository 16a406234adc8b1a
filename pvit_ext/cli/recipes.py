"""``pvit-ext recipes``: the training recipes, copied into a folder of the user's."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "recipes",
        help="copy the training recipes into a folder",
        description="Copy stage1.sh, stage2.sh, stage2_lora.sh, lion_stage1.sh to lion_stage3.sh and DeepSpeed's "
        "zero*.json, to be run and changed: deepspeed recipes/stage1.sh",
    )
    parser.add_argument("--to", metavar="DIR", default="recipes", help="made if it is missing, default %(default)s")
    parser.add_argument("--force", action="store_true", help="overwrite recipes that were changed")
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    from pvit_ext.tools.recipes import copy_recipes

    for path in copy_recipes(args.to, args.force):
        print(path)
    return 0
