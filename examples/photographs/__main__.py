"""``python -m examples.photographs``: train on photographs of chess pieces, ask about held-out ones, write a table."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.photographs import plugin, report
from examples.photographs.arms import ARMS, MAIN
from examples.photographs.experiment import Experiment, finished_seeds
from examples.photographs.settings import Settings
from pvit_ext.files import atomic_write

OWN_DATA = Path(__file__).parent / "data"
DATA_VARIABLE = "PVIT_EXT_DATA"
ALWAYS = ("majority", "photograph", "probe")


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is asked for and not done yet, then report all that the folder holds, of earlier runs too."""
    args = build_parser().parse_args(argv)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    if args.fresh:
        shutil.rmtree(args.output, ignore_errors=True)
    settings = Settings().scaled(args.scale)
    results: defaultdict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    earlier = [seed for seed in finished_seeds(args.output, args.develop) if seed not in args.seeds]
    for seed in (*earlier, *args.seeds):
        experiment = Experiment(_data(args.data), args.output, settings, seed, args.thing, args.develop, args.limit)
        seconds = experiment.base()
        asked = args.arms if seed in args.seeds else []
        finished = [name for name in ARMS if name not in asked and experiment.has_finished(name)]
        for name in (*ALWAYS, *finished, *asked):
            for row, values in experiment.run(name).items():
                results[row][seed] = {**values, "seconds": {**seconds, **values["seconds"]}}
            write_reports(args.output, experiment, results)
    print(f"\n{report.table(results)}\n")
    print(f"metrics.json, table.md, confusion.png and answers.png are in {args.output}. Ask for yourself:")
    print(command(experiment))


def write_reports(folder: Path, experiment: Experiment, results: Mapping[str, dict[int, dict[str, Any]]]) -> None:
    """Write all that is known so far; the drawings show the main arm of the newest seed."""
    report.write_metrics(folder / "metrics.json", results, experiment.described)
    with atomic_write(folder / "table.md") as temporary:
        temporary.write_text(report.table(results) + "\n", encoding="utf-8")
    if found := results.get(MAIN, {}).get(experiment.seed):
        report.draw_confusion(folder / "confusion.png", found["confusion"])
        report.draw_answers(folder / "answers.png", experiment.root, experiment.asked, experiment.predictions(MAIN))


def command(experiment: Experiment) -> str:
    """A command that asks about a held-out region."""
    photograph = experiment.asked[0]
    words = ["pvit-ext", "--plugin", plugin.__name__, "ask", "--model", str(experiment.folder / MAIN / "stage2")]
    words += ["--image", str(experiment.root / photograph.image), "--box", *(f"{v:g}" for v in photograph.boxes[0])]
    return shlex.join([*words, experiment.wording.first()])


def _data(given: Path | None) -> Path:
    """``--data``, else the folder ``chess`` of PVIT_EXT_DATA, else the part that comes with the example."""
    if given is None and (folder := os.environ.get(DATA_VARIABLE)):
        full = Path(folder, "chess")
        return full if full.is_dir() else OWN_DATA
    return given or OWN_DATA


def build_parser() -> argparse.ArgumentParser:
    """The flags of ``PHOTOGRAPHS_ARGS``."""
    parser = argparse.ArgumentParser(prog="python -m examples.photographs", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/photographs"), help="default %(default)s")
    parser.add_argument("--data", type=Path, help="another data set: a folder in YOLO's or Pascal VOC's layout")
    parser.add_argument("--thing", default="chess piece", help="what its kinds are, in questions (%(default)s)")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=[MAIN], help="default %(default)s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="default 0")
    add_run_flags(parser)
    return parser


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """What is asked about, what is kept, and how long it trains, whatever the arms are."""
    parser.add_argument("--develop", action="store_true", help="ask about a part of train, to choose settings")
    parser.add_argument("--limit", type=int, metavar="N", help="ask about the first N photographs only")
    parser.add_argument("--fresh", action="store_true", help="start over; default: keep what is done")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor of all steps; below 1 only tries the machinery"
    )


if __name__ == "__main__":
    main()
