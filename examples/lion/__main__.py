"""``python -m examples.lion``: train arms on image-level and region-level tasks, ask about held-out scenes, report."""

from __future__ import annotations

import argparse
import logging
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from examples.lion import report
from examples.lion.arms import ARMS
from examples.lion.experiment import Experiment
from examples.lion.settings import Settings


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is asked for and not done yet; the report holds what is asked for."""
    args = build_parser().parse_args(argv)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if args.fresh:
        shutil.rmtree(args.output, ignore_errors=True)
    settings = Settings().scaled(args.scale)
    experiment = Experiment(args.output, settings, args.develop)
    made_with = {"settings": asdict(settings), "base": experiment.build(), "develop": args.develop}
    results: defaultdict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for seed in args.seeds:
        for name in args.arms:
            results[name][seed] = experiment.run(name, seed)
            tables = report.write_report(args.output, results, made_with)
    print(f"\n{tables}\nmetrics.json, table.md and lion.png are in {args.output}")


def build_parser() -> argparse.ArgumentParser:
    """The flags of ``LION_ARGS``."""
    parser = argparse.ArgumentParser(prog="python -m examples.lion", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/lion"), help="default %(default)s")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=[*ARMS], metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default 0 1 2")
    parser.add_argument("--develop", action="store_true", help="ask about new training scenes, to choose settings")
    parser.add_argument("--fresh", action="store_true", help="start over; default: keep what is done")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor of scenes and steps; below 1 only tries the machinery"
    )
    return parser


if __name__ == "__main__":
    main()
