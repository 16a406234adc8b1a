"""``pvit-ext plan``: parameters, memory, steps and hours of a training run, before it starts."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import sys
from collections.abc import Iterator
from typing import Any

from pvit_ext.cli.options import count


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "plan",
        help="count parameters, memory, steps and hours of a recipe",
        usage="pvit-ext plan RECIPE --gpus N [options] [FLAGS of the recipe]",
        description="Print what a training run will take, from the flags that its recipe trains with: parameters that "
        "train and that do not, memory per GPU, steps, and hours at a given throughput. It needs no GPU and no "
        "weights, only config.json of the model and of its vision tower. What is not an option below is a flag of the "
        "recipe, such as --per_device_train_batch_size 8. Exit status 1: it does not fit in --gpu-memory.",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="file like recipes/stage1.sh; or -, with all flags behind it")
    parser.add_argument("--gpus", type=count, required=True, metavar="N", help="GPUs, all machines together")
    parser.add_argument("--gpu-memory", type=_positive, metavar="GIB", help="memory of one GPU, to compare with")
    parser.add_argument("--samples", type=count, metavar="N", help="samples in an epoch, where the data is not here")
    parser.add_argument(
        "--length",
        type=count,
        metavar="N",
        help="positions of the longest sample of a batch, default the recipe's --model_max_length",
    )
    parser.add_argument("--global-batch", type=count, metavar="N", help="samples that a step should have, to check")
    parser.add_argument("--json", action="store_true", help="print JSON: bytes and numbers")
    rates = parser.add_mutually_exclusive_group()
    rates.add_argument(
        "--samples-per-second", type=_positive, metavar="X", help="throughput of all GPUs together, for the hours"
    )
    rates.add_argument("--tokens-per-second", type=_positive, metavar="X", help="the same in positions")
    rates.add_argument("--measured", metavar="DIR", help="the same, as the run in DIR logged it last")
    parser.add_argument(
        "--tokens-per-sample", type=count, metavar="N", help="mean positions of a sample, default --length"
    )
    parser.set_defaults(handler=run, takes_more=True)


@contextlib.contextmanager
def _errors_alone() -> Iterator[None]:
    """Log errors alone: what loading says of a model does not hold for its outline."""
    ours = logging.getLogger("pvit_ext")
    before = ours.level
    ours.setLevel(logging.ERROR)
    try:
        yield
    finally:
        ours.setLevel(before)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    with contextlib.redirect_stdout(sys.stderr), _errors_alone():
        from pvit_ext.training.plan.plan import Question, make_plan
        from pvit_ext.training.plan.recipe import flags_of

        if args.tokens_per_sample is not None and args.tokens_per_second is None:
            raise ValueError("--tokens-per-sample goes with --tokens-per-second: give both, or neither")
        rate = _rate(args)
        words = args.more if args.recipe == "-" else flags_of(args.recipe, args.more)
        question = Question(args.gpus, args.samples, args.length, args.global_batch)
        plan = make_plan(words, question)
        if (mean := args.tokens_per_sample) is not None and mean > plan.length:
            limit = f"{'--model_max_length' if args.length is None else '--length'} {plan.length}"
            raise ValueError(f"--tokens-per-sample {mean} is above {limit}, the longest sample: change one of them")
    from pvit_ext.training.plan.report import describe, fits, hours

    problem = None if args.gpu_memory is None else fits(plan, args.gpu_memory)
    if args.json:
        fitting = None if args.gpu_memory is None else problem is None
        values = {**plan.to_json(), "hours": hours(plan, rate, args.tokens_per_sample), "fits": fitting}
        print(json.dumps(values, indent=2))
    else:
        print(describe(plan, rate, args.tokens_per_sample))
        if args.gpu_memory is not None:
            print(f"\n{problem or f'fits in {args.gpu_memory:g} GiB'}")
    return 0 if problem is None else 1


def _rate(args: argparse.Namespace) -> tuple[str, float] | None:
    """Name and value of the throughput that the options give."""
    if args.measured is not None:
        from pvit_ext.training.plan.steps import measured_rates

        return "samples_per_second", measured_rates(args.measured)["samples_per_second"]
    for name in ("samples_per_second", "tokens_per_second"):
        if (value := getattr(args, name)) is not None:
            return name, value
    return None


def _positive(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value
