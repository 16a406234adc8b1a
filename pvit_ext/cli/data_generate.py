"""``pvit-ext data generate``: questions and answers about regions, written by a language model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvit_ext.cli.options import add_map_options, count, flag_of, json_object, require_extra

if TYPE_CHECKING:
    from pvit_ext.data.generate.session import Settings


_KEY_NAME, _CONCURRENCY, _TIMEOUT, _TRIES = "OPENAI_API_KEY", 8, 120.0, 6
"""Defaults of options that are None where they are not given: some calls of the command have no use for them."""
_OF_CALLS: dict[str, Any] = {
    "workers": 1, "backend": "local", "skip_failed": False,
    **dict.fromkeys(("requests_per_minute", "tokens_per_minute", "concurrency", "timeout", "tries", "api_key_name")),
}  # fmt: skip
"""Options of calls, and what they are where they are not given."""


def add(commands: Any) -> None:
    """Add the command to the parser of ``pvit-ext data``."""
    parser = commands.add_parser(
        "generate",
        help="have a language model write questions and answers about annotated regions",
        description="Write training records by the strategies of PVIT, with any OpenAI-compatible endpoint. Every "
        "reply goes into a ledger at once: the same command continues where it stopped, and pays for no call twice.",
    )
    parser.add_argument("file", metavar="FILE", help="records with image, regions, and labels, captions or source")
    parser.add_argument("--captions", metavar="FILE", help="more captions: records with the same images")
    parser.add_argument("--image-folder", required=True, metavar="DIR", help="folder of the images")
    parser.add_argument("--out", required=True, metavar="FILE", help="the records, JSON Lines")
    parser.add_argument("--strategy", metavar="NAMES", help="strategies, separated by commas; default all")
    parser.add_argument(
        "--turns", type=_turns, metavar="N or N-M", help="turns of a dialogue, default 1, or 3-5 multi-turn"
    )
    parser.add_argument("--limit", type=count, metavar="N", help="only the first N images")
    parser.add_argument("--sample", type=count, metavar="N", help="make N, show them as OUT.sample.html, and stop")
    parser.add_argument("--estimate", action="store_true", help="print what it will take, and stop")
    parser.add_argument("--ledger", metavar="FILE", help="file of all calls, default OUT.ledger.jsonl")
    parser.add_argument("--skip-failed", action="store_true", help="write OUT without jobs whose calls had no reply")
    parser.add_argument("--batch", metavar="DIR", help="write the batch API's files to DIR, read DIR/results")
    _add_model(parser)
    _add_limits(parser)
    parser.set_defaults(handler=run)


def _add_model(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model")
    group.add_argument("--model", required=True, metavar="NAME", help="its name at the endpoint")
    group.add_argument("--base-url", metavar="URL", help="such as http://localhost:8000/v1, default OpenAI's")
    group.add_argument(
        "--api-key-name",
        metavar="NAME",
        help=f"environment variable of the key (default {_KEY_NAME})",
    )
    group.add_argument("--images", choices=("none", "plain", "marked"), default="none", help="send images too, "
                       "as they are or with their regions drawn on them (default %(default)s)")  # fmt: skip
    group.add_argument("--image-side", type=count, metavar="PIXELS", help="longer side of a sent image (default 1024)")
    group.add_argument("--response-format", choices=("json_schema", "json_object", "none"), default="json_schema",
                       help="how replies are held to JSON; none where the endpoint knows neither "
                       "(default %(default)s)")  # fmt: skip
    group.add_argument("--temperature", type=_from_zero, metavar="T", help="default the endpoint's own")
    group.add_argument(
        "--seed", type=int, default=0, help="sent with each request, and chooses what is asked (default 0)"
    )
    group.add_argument(
        "--max-tokens", type=count, default=1500, metavar="N", help="most tokens of a reply (default %(default)s)"
    )
    group.add_argument(
        "--max-tokens-name",
        choices=("max_tokens", "max_completion_tokens"),
        help="what the endpoint calls that limit, default by --base-url",
    )
    group.add_argument("--extra", type=json_object, default={}, metavar="JSON", help="further keys of each request")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument("--concurrency", type=count, metavar="N", help=f"calls at a time (default {_CONCURRENCY})")
    add_map_options(group)
    group.add_argument("--requests-per-minute", type=_positive, metavar="N", help="most of them, default no limit")
    group.add_argument(
        "--tokens-per-minute", type=_positive, metavar="N", help="most of prompts and replies, default no limit"
    )
    group.add_argument("--price-in", type=_positive, metavar="P", help="price of a million tokens of prompts")
    group.add_argument("--price-out", type=_positive, metavar="P", help="price of a million tokens of replies")
    group.add_argument("--max-cost", type=_positive, metavar="C", help="limit of the cost of all runs of the ledger")
    group.add_argument("--timeout", type=_positive, metavar="S", help=f"seconds for one try (default {_TIMEOUT:g})")
    group.add_argument("--tries", type=count, metavar="N", help=f"most tries of one call (default {_TRIES})")


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    require_extra("generate", "pvit-ext data generate")
    _check(args)
    from pvit_ext.data.generate.session import Session

    with Session(_settings(args)) as session:
        for line in session.remarks():
            print(line)
        print(session.estimate())
        if args.estimate:
            return 0
        if args.batch:
            status, lines = session.batch(Path(args.batch))
        elif args.sample:
            status, lines = session.sample(args.sample)
        else:
            status, lines = session.generate()
        for line in lines:
            print(line)
        return status


def _check(args: argparse.Namespace) -> None:
    if args.max_cost is not None and (args.price_in is None or args.price_out is None):
        raise ValueError("--max-cost needs --price-in and --price-out")
    if (args.price_in is None) != (args.price_out is None):
        raise ValueError("--price-in and --price-out go together: tokens without a price would cost nothing")
    if args.estimate and (given := [name for name in ("sample", "batch") if getattr(args, name) is not None]):
        raise ValueError(f"--estimate is of all dialogues: {flag_of(given[0])} does not go with it")
    if args.batch and (args.sample or args.max_cost):
        raise ValueError("--batch makes no calls: --sample and --max-cost do not go with it")
    if args.image_side is not None and args.images == "none":
        raise ValueError("--image-side applies to sent images only: give --images plain or marked, or leave it out")
    if args.batch and (given := [name for name, none in _OF_CALLS.items() if getattr(args, name) != none]):
        raise ValueError(f"--batch makes no calls: {flag_of(given[0])} does not go with it")


def _settings(args: argparse.Namespace) -> Settings:
    from pvit_ext.data.generate.client import Endpoint
    from pvit_ext.data.generate.limits import Prices
    from pvit_ext.data.generate.request import CallOptions
    from pvit_ext.data.generate.session import Settings
    from pvit_ext.data.generate.strategies import STRATEGIES

    name = args.max_tokens_name or ("max_tokens" if args.base_url else "max_completion_tokens")
    call = CallOptions(
        args.model, args.images, args.image_side or 1024, args.response_format, args.temperature, args.seed,
        args.max_tokens, name, args.extra,
    )  # fmt: skip
    return Settings(
        file=Path(args.file),
        image_folder=args.image_folder,
        out=Path(args.out),
        call=call,
        endpoint=Endpoint(
            args.base_url, args.api_key_name or _KEY_NAME, args.timeout or _TIMEOUT, args.tries or _TRIES
        ),
        strategies=tuple(args.strategy.split(",")) if args.strategy else STRATEGIES,
        turns=args.turns,
        limit=args.limit,
        captions=Path(args.captions) if args.captions else None,
        max_bad=args.max_bad_records,
        ledger=Path(args.ledger) if args.ledger else None,
        concurrency=args.concurrency or _CONCURRENCY,
        requests_per_minute=args.requests_per_minute,
        tokens_per_minute=args.tokens_per_minute,
        prices=Prices(args.price_in or 0.0, args.price_out or 0.0),
        max_cost=args.max_cost,
        skip_failed=args.skip_failed,
        workers=args.workers,
        backend=args.backend,
    )


def _turns(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    try:
        turns = int(low), int(high or low)
    except ValueError:
        turns = (0, 0)
    if not 1 <= turns[0] <= turns[1] <= 20:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of turns such as 1 or 3-5, at most 20")
    return turns


def _positive(text: str) -> float:
    if not 0 < (value := _number(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _from_zero(text: str) -> float:
    if not 0 <= (value := _number(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
