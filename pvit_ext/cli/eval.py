"""``pvit-ext eval``: a benchmark, or your own set, by one command."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvit_ext.cli.once import REPEATED
from pvit_ext.cli.options import add_base, count, flags_of, list_settings, name_values, require_extra

if TYPE_CHECKING:
    from pvit_ext.evaluation.calls import EndpointOptions
    from pvit_ext.evaluation.judge.hearing import JudgeOptions
    from pvit_ext.evaluation.run import Settings

TRACKERS = ("wandb",)
BATCH_SIZE, CONCURRENCY, IMAGE_SIDE, KEY_NAME = 8, 8, 1024, "OPENAI_API_KEY"


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "eval",
        help="measure a model on a benchmark, or on your own set",
        description="Ask a model all questions of a task, greedily, and score the answers. DIR gets predictions.jsonl, "
        "metrics.json, metrics.md and report.html; the same command continues where it stopped. Several processes "
        "share the work under a launcher: torchrun --nproc_per_node 8 -m pvit_ext.cli eval ...",
    )
    parser.add_argument("task", nargs="?", metavar="TASK", help="a name of --tasks")
    parser.add_argument("--tasks", action="store_true", help="list the tasks and their settings, and stop")
    parser.add_argument("--data", type=Path, metavar="FILE", help="the task's file or folder")
    parser.add_argument("--image-folder", metavar="DIR", help="folder of its images")
    parser.add_argument("--out", type=Path, metavar="DIR", help="answers and results")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the task, see "
                        f"--tasks; {REPEATED}")  # fmt: skip
    parser.add_argument("--limit", type=count, metavar="N", help="only N samples, chosen by --seed")
    parser.add_argument("--seed", type=int, help="seed of --limit and of the cases shown (default 0)")
    parser.add_argument(
        "--lmms-eval",
        action="store_true",
        help="write the task into DIR in lmms-eval's form, for its --include_path, and stop",
    )
    parser.add_argument("--report-to", choices=TRACKERS, help="also send the results to a tracker")
    _add_model(parser)
    _add_endpoint(parser)
    _add_judge(parser)
    parser.set_defaults(handler=run)


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("who answers")
    group.add_argument("--model", metavar="DIR", help="checkpoint")
    add_base(group)
    group.add_argument("--answers", type=Path, metavar="FILE", help="score stored answers; no model is needed")
    group.add_argument(
        "--arm",
        choices=("regions", "features", "features-box", "image", "text", "marks"),
        help="how regions are shown: default regions, the checkpoint's own tokens; marks, drawn on the image, with "
        "--endpoint-model",
    )
    group.add_argument(
        "--region-words", metavar="TEXT", help="words for a region with --arm image, default: the object"
    )
    group.add_argument("--batch-size", type=count, metavar="N", help=f"default {BATCH_SIZE}")
    group.add_argument("--max-new-tokens", type=count, metavar="N", help="default the task's")
    group.add_argument("--conv-version", metavar="NAME", help="conversation template, default the checkpoint's own")
    group.add_argument("--system", metavar="TEXT", help="system prompt in place of the template's")
    group.add_argument("--device", help="default cuda if there is one, else cpu")
    group.add_argument("--dtype", help="default float16 on cuda, float32 on the cpu")


def _add_endpoint(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("an external model, as a baseline")
    group.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible, such as http://localhost:8000/v1")
    group.add_argument("--endpoint-model", metavar="NAME", help="its name there; without --endpoint, at OpenAI")
    group.add_argument("--api-key-name", metavar="NAME", help=f"environment variable of the key, default {KEY_NAME}")
    group.add_argument("--concurrency", type=count, metavar="N", help=f"calls at a time, default {CONCURRENCY}")
    group.add_argument(
        "--image-side", type=count, metavar="PIXELS", help=f"longer side of a sent image, default {IMAGE_SIDE}"
    )


def _add_judge(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the judge, for tasks that need one (also --concurrency, --image-side)")
    group.add_argument("--judge-model", metavar="NAME", help="model that judges; every score names it")
    group.add_argument("--judge-endpoint", metavar="URL", help="OpenAI-compatible; without it, at OpenAI")
    group.add_argument("--judge-key-name", metavar="NAME", help=f"environment variable of the key, default {KEY_NAME}")
    group.add_argument("--judge-replies", type=Path, metavar="FILE", help="its stored replies; no calls are made")


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    if args.tasks:
        print(_tasks())
        return 0
    if args.lmms_eval:
        return _export(args)
    _check(args)
    from pvit_ext.evaluation.run import evaluate
    from pvit_ext.evaluation.summary import headline

    if args.report_to == "wandb":
        require_extra("wandb", "pvit-ext eval --report-to wandb")
    values = evaluate(_settings(args))
    if values is not None:
        if args.report_to == "wandb":
            from pvit_ext.evaluation.tracking import report

            report(values, args.out)
        print("\n".join([str(args.out / "metrics.md"), *values["files"], headline(values)]))
    return 0


def _export(args: argparse.Namespace) -> int:
    _check_data(args)
    _refuse(
        args,
        (*_NO_USE, *_OF_JUDGE, *_OF_CALLS, "endpoint", "limit", "seed", "report_to", *_NO_USE["answers"]),
        "with --lmms-eval",
    )
    from pvit_ext.evaluation.lmms_eval.export import export_task
    from pvit_ext.evaluation.task import TaskOptions

    name = export_task(args.task, TaskOptions(args.data, args.image_folder, name_values(args.set)), args.out)
    print(f"lmms-eval --model pvit_ext --model_args pretrained=DIR --include_path {args.out} --tasks {name}")
    return 0


_ASKED = ("base", "batch_size", "conv_version", "device", "dtype")
"""Options of a checkpoint that is asked."""
_NO_USE = {
    "answers": ("arm", "region_words", "system", "max_new_tokens", "api_key_name", *_ASKED),
    "endpoint_model": _ASKED,
    "model": ("api_key_name",),
}
"""Who answers -> options that do not apply."""
_OF_CALLS = ("concurrency", "image_side")
_OF_JUDGE = ("judge_model", "judge_endpoint", "judge_key_name", "judge_replies")


def _check_data(args: argparse.Namespace) -> None:
    if any(getattr(args, name) is None for name in ("task", "data", "image_folder", "out")):
        raise ValueError("give TASK --model DIR --data FILE --image-folder DIR --out DIR, or --tasks")
    if not args.data.exists():
        raise ValueError(f"--data {args.data}: there is no such file or folder")


def _check(args: argparse.Namespace) -> None:
    _check_data(args)
    given = [name for name in _NO_USE if getattr(args, name) is not None]
    if len(given) != 1:
        raise ValueError("give --model DIR, --endpoint-model NAME or --answers FILE: one of them answers")
    if args.endpoint and not args.endpoint_model:
        raise ValueError("--endpoint goes with --endpoint-model NAME")
    _check_judge(args)
    _refuse(args, _NO_USE[given[0]], f"with {flags_of(given)}")
    if args.endpoint_model is None and (args.judge_model is None or args.judge_replies is not None):
        _refuse(args, _OF_CALLS, "where no endpoint is called")
    if args.region_words is not None and args.arm != "image":
        raise ValueError("--region-words stands for a region in --arm image: name that arm, or leave it out")
    if args.answers is not None and not args.answers.is_file():
        raise ValueError(f"--answers {args.answers}: there is no such file")


def _check_judge(args: argparse.Namespace) -> None:
    if args.judge_model is None:
        _refuse(args, ("judge_endpoint", "judge_key_name", "judge_replies"), "without --judge-model NAME")
    if args.judge_replies is not None:
        _refuse(args, ("judge_endpoint", "judge_key_name"), "with --judge-replies")
        if not args.judge_replies.is_file():
            raise ValueError(f"--judge-replies {args.judge_replies}: there is no such file")


def _refuse(args: argparse.Namespace, names: Sequence[str], condition: str) -> None:
    if useless := [name for name in names if getattr(args, name) is not None]:
        raise ValueError(f"{flags_of(useless)} cannot apply {condition}: leave it out")


def _settings(args: argparse.Namespace) -> Settings:
    from pvit_ext.evaluation.answering import ModelOptions
    from pvit_ext.evaluation.arms import WORDS
    from pvit_ext.evaluation.run import Settings
    from pvit_ext.evaluation.task import TASKS

    tokens = args.max_new_tokens or TASKS.require(args.task).max_new_tokens
    model = args.model and ModelOptions(
        args.model,
        args.base,
        args.batch_size or BATCH_SIZE,
        tokens,
        args.conv_version,
        args.system,
        args.device,
        args.dtype,
    )
    return Settings(
        task=args.task,
        data=args.data,
        image_folder=args.image_folder,
        out=args.out,
        model=model,
        endpoint=_endpoint(args, tokens) if args.endpoint_model else None,
        answers=args.answers,
        judge=_judge(args),
        arm=args.arm,
        words=WORDS if args.region_words is None else args.region_words,
        settings=name_values(args.set),
        limit=args.limit,
        seed=args.seed or 0,
    )


def _endpoint(args: argparse.Namespace, tokens: int) -> EndpointOptions:
    require_extra("generate", "pvit-ext eval --endpoint-model")
    return _calls(args, "--endpoint", args.endpoint_model, args.endpoint, args.api_key_name, tokens, args.system)


def _judge(args: argparse.Namespace) -> JudgeOptions | None:
    if args.judge_model is None:
        return None
    from pvit_ext.evaluation.judge.hearing import JudgeOptions
    from pvit_ext.evaluation.judge.task import check_judge
    from pvit_ext.evaluation.task import TASKS

    check_judge(args.task, judged=True)  # before a key is asked for that would be of no use
    if args.judge_replies is not None:
        return JudgeOptions(args.judge_model, replies=args.judge_replies)
    require_extra("generate", "pvit-ext eval --judge-model")
    tokens = getattr(TASKS.require(args.task), "judge_tokens", 1)
    url, key = args.judge_endpoint, args.judge_key_name
    return JudgeOptions(args.judge_model, _calls(args, "--judge-endpoint", args.judge_model, url, key, tokens, None))


def _calls(
    args: argparse.Namespace,
    flag: str,
    model: str,
    url: str | None,
    key_name: str | None,
    tokens: int,
    system: str | None,
) -> EndpointOptions:
    from pvit_ext.data.generate.client import Endpoint
    from pvit_ext.data.generate.request import CallOptions
    from pvit_ext.evaluation.calls import EndpointOptions

    endpoint = Endpoint(url, key_name or KEY_NAME)
    if url is None and not os.environ.get(endpoint.key_name):
        raise ValueError(
            f"{model} is asked at OpenAI's, and there is no key in the environment variable {endpoint.key_name}: set "
            f"it, or give {flag} URL"
        )
    call = CallOptions(
        model,
        image_side=args.image_side or IMAGE_SIDE,
        response_format="none",
        temperature=0.0,
        max_tokens=tokens,
        max_tokens_name="max_tokens" if url else "max_completion_tokens",
    )
    return EndpointOptions(endpoint, call, system, args.concurrency or CONCURRENCY)


def _tasks() -> str:
    from pvit_ext.evaluation.task import TASKS

    return list_settings(TASKS, 22)
