"""``pvit-ext eval``: a benchmark, or your own set, by one command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvit_ext.cli.options import count, list_settings, name_values, require_extra

if TYPE_CHECKING:
    from pvit_ext.evaluation.endpoint import EndpointOptions
    from pvit_ext.evaluation.run import Settings


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "eval",
        help="measure a model on a benchmark, or on your own set",
        description="Ask a model all questions of a task, greedily, and score the answers. DIR gets predictions.jsonl, "
        "metrics.json, metrics.md and report.html; the same command goes on where it was stopped. Several processes "
        "share the work under a launcher: torchrun --nproc_per_node 8 -m pvit_ext.cli eval ...",
    )
    parser.add_argument("task", nargs="?", metavar="TASK", help="a name of --tasks")
    parser.add_argument("--tasks", action="store_true", help="list the tasks and their settings, and stop")
    parser.add_argument("--data", type=Path, metavar="FILE", help="the task's file or folder")
    parser.add_argument("--image-folder", metavar="DIR", help="that its images lie in")
    parser.add_argument("--out", type=Path, metavar="DIR", help="answers and results")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the task")
    parser.add_argument("--limit", type=count, metavar="N", help="only N samples, chosen by --seed")
    parser.add_argument("--seed", type=int, default=0, help="of --limit and of the cases shown (default 0)")
    _add_model(parser)
    _add_endpoint(parser)
    parser.set_defaults(handler=run)


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("who answers")
    group.add_argument("--model", metavar="DIR", help="checkpoint")
    group.add_argument("--base", metavar="DIR", help="checkpoint under a folder of region modules only")
    group.add_argument("--answers", type=Path, metavar="FILE", help="score stored answers; no model is needed")
    group.add_argument(
        "--arm", choices=("regions", "image", "text", "marks"), help="how regions are shown, default the checkpoint's"
    )
    group.add_argument("--region-words", metavar="TEXT", help="for a region in the arm image, default: the object")
    group.add_argument("--batch-size", type=count, default=8, metavar="N", help="default %(default)s")
    group.add_argument("--max-new-tokens", type=count, metavar="N", help="default the task's")
    group.add_argument("--conv-version", metavar="NAME", help="conversation template, default the checkpoint's own")
    group.add_argument("--system", metavar="TEXT", help="system prompt in place of the template's")
    group.add_argument("--device", help="default cuda if there is one, else cpu")
    group.add_argument("--dtype", help="default float16 on cuda, float32 on the cpu")


def _add_endpoint(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("an external model, as a baseline")
    group.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible, such as http://localhost:8000/v1")
    group.add_argument("--endpoint-model", metavar="NAME", help="its name there; without --endpoint at OpenAI's")
    group.add_argument("--api-key-name", default="OPENAI_API_KEY", metavar="NAME", help="environment variable")
    group.add_argument("--concurrency", type=count, default=8, metavar="N", help="calls at a time, default %(default)s")
    group.add_argument("--image-side", type=count, default=1024, metavar="PIXELS", help="longer side when sent")


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    if args.tasks:
        print(_tasks())
        return 0
    _check(args)
    from pvit_ext.evaluation.run import evaluate
    from pvit_ext.evaluation.summary import headline

    values = evaluate(_settings(args))
    if values is not None:
        print(f"{args.out / 'metrics.md'}\n{headline(values)}")
    return 0


_NO_USE = {
    "answers": ("arm", "region_words", "system", "max_new_tokens", "base", "conv_version", "device", "dtype"),
    "endpoint_model": ("base", "conv_version", "device", "dtype"),
    "model": (),
}
"""Who answers -> options that do not apply."""


def _check(args: argparse.Namespace) -> None:
    if any(getattr(args, name) is None for name in ("task", "data", "image_folder", "out")):
        raise ValueError("give TASK --model DIR --data FILE --image-folder DIR --out DIR, or --tasks")
    given = [name for name in _NO_USE if getattr(args, name) is not None]
    if len(given) != 1:
        raise ValueError("give --model DIR, --endpoint-model NAME or --answers FILE: one of them answers")
    if args.endpoint and not args.endpoint_model:
        raise ValueError("--endpoint goes with --endpoint-model NAME")
    if useless := [name for name in _NO_USE[given[0]] if getattr(args, name) is not None]:
        raise ValueError(f"{_flags(useless)} cannot apply with {_flags(given)}: leave it out")
    if args.region_words is not None and args.arm != "image":
        raise ValueError("--region-words is what stands for a region in --arm image: name that arm, or leave it out")
    if not args.data.exists():
        raise ValueError(f"--data {args.data}: there is no such file or folder")
    if args.answers is not None and not args.answers.is_file():
        raise ValueError(f"--answers {args.answers}: there is no such file")


def _flags(names: Sequence[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)


def _settings(args: argparse.Namespace) -> Settings:
    from pvit_ext.evaluation.answering import ModelOptions
    from pvit_ext.evaluation.arms import WORDS
    from pvit_ext.evaluation.run import Settings
    from pvit_ext.evaluation.task import TASKS

    tokens = args.max_new_tokens or TASKS.require(args.task).max_new_tokens
    model = args.model and ModelOptions(
        args.model, args.base, args.batch_size, tokens, args.conv_version, args.system, args.device, args.dtype
    )
    return Settings(
        task=args.task,
        data=args.data,
        image_folder=args.image_folder,
        out=args.out,
        model=model,
        endpoint=_endpoint(args, tokens) if args.endpoint_model else None,
        answers=args.answers,
        arm=args.arm,
        words=args.region_words or WORDS,
        settings=name_values(args.set),
        limit=args.limit,
        seed=args.seed,
    )


def _endpoint(args: argparse.Namespace, tokens: int) -> EndpointOptions:
    require_extra("generate", "pvit-ext eval --endpoint-model")
    from pvit_ext.data.generate.client import Endpoint
    from pvit_ext.data.generate.request import CallOptions
    from pvit_ext.evaluation.endpoint import EndpointOptions

    call = CallOptions(
        args.endpoint_model,
        image_side=args.image_side,
        response_format="none",
        temperature=0.0,
        seed=args.seed,
        max_tokens=tokens,
        max_tokens_name="max_tokens" if args.endpoint else "max_completion_tokens",
    )
    return EndpointOptions(Endpoint(args.endpoint, args.api_key_name), call, args.system, args.concurrency)


def _tasks() -> str:
    from pvit_ext.evaluation.task import TASKS

    return list_settings(TASKS, 22)
