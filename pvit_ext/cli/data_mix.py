"""``pvit-ext data mix``: training files in proportions, as one."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvit_ext.cli.once import REPEATED
from pvit_ext.cli.options import (
    add_leak_options,
    check_leak_options,
    count_from_zero,
    name_value_pairs,
    name_values,
)

if TYPE_CHECKING:
    from pvit_ext.data.mix.config import Mix


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "mix",
        help="mix training files by weights, counts and tasks",
        description="Mix training files as a YAML file says, or as the paper did (--preset). FILE appears when it is "
        "complete, with FILE.report.json and FILE.dropped.jsonl. An interrupted run continues where it stopped.",
    )
    parser.add_argument("mix", nargs="?", type=Path, metavar="MIX.yaml", help="what to mix; without --preset")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the training file, JSON Lines")
    parser.add_argument("--preset", metavar="NAME", help="a mixture of the paper, see --presets")
    parser.add_argument("--presets", action="store_true", help="list the presets and their sources, and stop")
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help=f"a file of a preset's source; {REPEATED}",
    )
    parser.add_argument(
        "--images",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help=f"folder to put before the image names of a source; {REPEATED}",
    )
    parser.add_argument(
        "--without", action="append", default=[], metavar="NAME", help=f"leave out a preset's source; {REPEATED}"
    )
    parser.add_argument("--seed", type=int, help="chooses which records are taken (default the file's, or 0)")
    parser.add_argument(
        "--max-bad-records",
        "--max_bad_records",
        type=count_from_zero,
        default=0,
        metavar="N",
        help="pass over up to N bad records (default 0)",
    )
    add_leak_options(parser)
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    from pvit_ext.data.mix.presets import describe_presets
    from pvit_ext.data.mix.run import mix_files

    if args.presets:
        print(describe_presets())
        return 0
    if args.out is None or (args.mix is None) == (args.preset is None):
        raise ValueError("give MIX.yaml --out FILE, or --preset NAME --source NAME=FILE ... --out FILE, or --presets")
    check_leak_options(args)
    mix = _mix(args)
    mix = replace(mix, held_out=(*mix.held_out, *args.held_out))
    if args.seed is not None:
        mix = replace(mix, seed=args.seed)
    print(f"{args.out}\n{mix_files(mix, args.out, args.max_bad_records, args.exclude_leaks)}")
    return 0


def _mix(args: argparse.Namespace) -> Mix:
    from pvit_ext.data.mix.config import read_mix
    from pvit_ext.data.mix.presets import mix_of_preset

    if args.preset is None:
        if args.source or args.images or args.without:
            raise ValueError("--source, --images and --without go with --preset; write them into MIX.yaml")
        return read_mix(args.mix)
    files: dict[str, list[Path]] = {}
    for name, file in name_value_pairs(args.source, "--source", "NAME=FILE"):
        files.setdefault(name, []).append(Path(file))
    return mix_of_preset(args.preset, files, name_values(args.images, "--images", "NAME=DIR"), args.without)
