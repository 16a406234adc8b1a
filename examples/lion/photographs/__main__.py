"""``python -m examples.lion.photographs``: the arms of ``examples.lion`` on photographs, with a real tagger."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.lion import report
from examples.lion.arms import ARMS
from examples.lion.photographs.experiment import LionExperiment
from examples.lion.photographs.settings import Settings
from examples.photographs.__main__ import DATA_VARIABLE, add_run_flags


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is asked for and not done yet; the report holds what is asked for."""
    args = build_parser().parse_args(argv)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if args.fresh:
        shutil.rmtree(args.output, ignore_errors=True)
    root, settings = _data(args.data), Settings().scaled(args.scale)
    results: defaultdict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for seed in args.seeds:
        experiment = LionExperiment(root, args.output, settings, seed, args.tagger, args.develop, args.limit)
        seconds = experiment.base()
        described = {name: value for name, value in experiment.described.items() if name != "seed"}
        made_with = {
            **described,
            "tagger's": experiment.quality,
            "without a model": experiment.without_a_model,
        }
        for name in args.arms:
            found = experiment.measure(name)
            results[name][seed] = {**found, "seconds": {**seconds, **found["seconds"]}}
            tables = report.write_report(args.output, results, made_with)
    print(f"\n{tables}\nthe tagger on the photographs that are asked about: {experiment.quality}")
    print(f"scores without a model: {experiment.without_a_model}")
    print(f"metrics.json, table.md and lion.png are in {args.output}")


def _data(given: Path | None) -> Path:
    """``--data``, else the folder ``coco256`` of PVIT_EXT_DATA."""
    if given is None and (folder := os.environ.get(DATA_VARIABLE)):
        return Path(folder, "coco256")
    if given is None:
        raise FileNotFoundError(f"give --data, or set {DATA_VARIABLE} to the folder that holds coco256")
    return given


def build_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(prog="python -m examples.lion.photographs", description=__doc__)
    parser.add_argument("--tagger", type=Path, required=True, metavar="FILE.onnx", help="FastestDet, or one like it")
    parser.add_argument("--data", type=Path, help="folder in YOLO's layout; default coco256 of PVIT_EXT_DATA")
    parser.add_argument("--output", type=Path, default=Path("runs/lion-photographs"), help="default %(default)s")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=[*ARMS], metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default 0 1 2")
    add_run_flags(parser)
    return parser


if __name__ == "__main__":
    main()
