"""``pvit-ext ask``: one question about regions of an image, or a file of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pvit_ext.cli import ask_many, ask_tags
from pvit_ext.cli.once import REPEATED
from pvit_ext.cli.options import add_base, count, flags_of

if TYPE_CHECKING:
    from pvit_ext.regions.region import Region

QUICKSTART_MODEL = Path("runs/quickstart/stage2")
_KEPT = 1 << 30
"""Bytes for what was seen of the images of one question."""


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "ask",
        help="ask about regions of an image, or answer a file of questions",
        description="Ask one question, or those of --file or --folder. Regions fill the question's <region> "
        "placeholders in the order given, whatever their kind, in pixels of the image as a viewer shows it.",
    )
    parser.add_argument("question", nargs="?", metavar="QUESTION", help='such as "What digit is in <region>?"')
    parser.add_argument("--image", metavar="FILE", help="the image asked about", advice="several images come by --file")
    parser.add_argument("--model", metavar="DIR", help=f"checkpoint, default {QUICKSTART_MODEL} if it exists")
    add_base(parser)
    _add_regions(parser)
    parser.add_argument("--normalized", action="store_true", help="coordinates are 0..1 of the image, not pixels")
    parser.add_argument("--max-new-tokens", type=count, metavar="N", help="of an answer, default 64")
    parser.add_argument("--scores", action="store_true", help="also the log-likelihood of the answer")
    parser.add_argument(
        "--choices",
        type=_choices,
        metavar="A,B,...",
        help='take the likeliest of these answers; a JSON list where they hold commas: ["a, b", "c"]',
    )
    parser.add_argument("--conv-version", metavar="NAME", help="conversation template, default the checkpoint's own")
    parser.add_argument("--system", metavar="TEXT", help="system prompt in place of the template's")
    parser.add_argument("--task", metavar="NAME", help="for a model with adapters by task (LION), such as region")
    parser.add_argument("--device", help="default cuda if there is one, else cpu")
    parser.add_argument("--dtype", help="default float16 on cuda, float32 on the cpu")
    ask_tags.add(parser)
    ask_many.add(parser)
    parser.set_defaults(handler=run, regions=[])


def _add_regions(parser: argparse.ArgumentParser) -> None:
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "box": ("left, top, right and bottom", {"nargs": 4, "type": float, "metavar": ("X0", "Y0", "X1", "Y1")}),
        "point": ("one place", {"nargs": 2, "type": float, "metavar": ("X", "Y")}),
        "polygon": ("an outline, at least three corners", {"type": _vertices, "metavar": '"X,Y X,Y X,Y ..."'}),
        "scribble": ("a line drawn over it", {"type": _vertices, "metavar": '"X,Y X,Y ..."'}),
        "mask": ("an image of one channel, the size of the image; 0 is outside", {"metavar": "PNG"}),
    }
    for kind, (about, how) in kinds.items():
        parser.add_argument(f"--{kind}", action=_AddRegion, help=f"a region: {about}; {REPEATED}", **how)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    _check_choices(args)
    if args.file is not None or args.folder is not None:
        _refuse_for_many(args)
        ask_many.check(args)
        return ask_many.run(args, model_path(args.model), args.choices or ())
    _check_one(args)
    return _ask_one(args)


def _ask_one(args: argparse.Namespace) -> int:
    regions = [_region(kind, value, args.normalized) for kind, value in args.regions]
    if regions and "<region>" not in args.question:
        from pvit_ext.prompt import hint_of_tags

        raise ValueError(
            f"{len(regions)} region(s) given, but the question has no <region>: {args.question!r}; "
            'write <region> where a region is meant, such as "What is <region>?"'
            f"{hint_of_tags([args.question])}"
        )
    tagger = ask_tags.chosen_tagger(args)
    path = model_path(args.model)

    import pvit_ext
    from pvit_ext.hosts.loading import check_conv_version
    from pvit_ext.regions.image import load_image

    image = load_image(args.image)
    for region in regions:
        region.resolve(image.size, args.image)
    check_conv_version(path, args.base, args.conv_version)
    tags = args.tags if tagger is None else ask_tags.tags_by(tagger, args.image, image)
    tokenizer, model, image_processor, _ = pvit_ext.load_pretrained_model(
        path, base=args.base, device=args.device, dtype=args.dtype
    )
    _check_task(args.task, model)
    query = pvit_ext.Query(image, args.question, regions, task=args.task, tags=tags)
    how: dict[str, Any] = {"conv_version": args.conv_version, "system": args.system}
    if args.scores or args.choices:
        how["features"] = pvit_ext.ImageFeatures(_KEPT)  # several passes over one prompt
    texts = args.choices
    if texts is None:
        new = args.max_new_tokens or 64
        texts = pvit_ext.ask(model, tokenizer, image_processor, [query], max_new_tokens=new, **how)
        print(texts[0])
    if args.scores or args.choices:
        (scores,) = pvit_ext.score(model, tokenizer, image_processor, [query], [texts], **how)
        for one in sorted(scores, key=lambda one: -one.log_likelihood):
            about = f"log-likelihood {one.log_likelihood:.4f}, {one.per_token:.4f} per token, {one.tokens} token(s)"
            print(f"{one.text}: {about}" if args.choices else about)
    return 0


_OF_ONE = ("question", "image", "regions", "normalized", "task", *ask_tags.OPTIONS)


def _refuse_for_many(args: argparse.Namespace) -> None:
    if given := [name for name in _OF_ONE if getattr(args, name)]:
        kinds = [f"--{kind}" for kind, _ in args.regions]
        flags = [one for name in given for one in {"question": ["QUESTION"], "regions": kinds}.get(name, [f"--{name}"])]
        many = "--file" if args.file is not None else "--folder"
        raise ValueError(f"{', '.join(dict.fromkeys(flags))} is of one question, {many} brings many; leave it out")


def _check_task(task: str | None, model: Any) -> None:
    from pvit_ext.adapters.lion.tasks import Tasks

    if task is not None and Tasks.of(getattr(model, "region_config", None)) is None:
        raise ValueError(f"--task {task}: the model has no adapters by task; leave it out")


def _check_one(args: argparse.Namespace) -> None:
    if given := [name for name in ask_many.OF_MANY if getattr(args, name) is not None]:
        flags = flags_of(given, ask_many.FLAGS)
        raise ValueError(f"{flags} is for many questions: give --file QUERIES.jsonl or --folder DIR with it")
    if args.question is None or args.image is None:
        raise ValueError(
            "give QUESTION and --image FILE, or --file QUERIES, or --folder DIR with --regions FILE and --question TEXT"
        )
    if args.normalized and all(kind == "mask" for kind, _ in args.regions):
        raise ValueError(
            "--normalized is of the coordinates of --box, --point, --polygon and --scribble, and none is given: leave "
            "it out"
        )


def _check_choices(args: argparse.Namespace) -> None:
    if args.choices is not None and args.scores:
        raise ValueError("--choices come with their log-likelihoods; leave --scores out")
    if args.choices is not None and args.max_new_tokens is not None:
        raise ValueError("--max-new-tokens is of written answers, --choices are given ones; leave one of them out")


def _choices(text: str) -> Sequence[str]:
    from pvit_ext.inference.questions import check_choices

    try:
        found = json.loads(text) if text.lstrip().startswith("[") else [one.strip() for one in text.split(",")]
        return check_choices(found)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _AddRegion(argparse.Action):
    """Appends (kind, value) to one list, so that regions keep their order across options."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.regions = [*namespace.regions, (self.dest, values)]


def _vertices(text: str) -> list[tuple[float, float]]:
    try:
        return [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())]
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is not a list of points such as "10,20 30,40 50,60"') from None


def _region(kind: str, value: Any, normalized: bool) -> Region:
    from pvit_ext.regions.mask import PendingMask
    from pvit_ext.regions.region import Region

    if kind == "mask":
        return PendingMask(value).load("", "--mask")
    arguments = [value] if kind in ("polygon", "scribble") else value
    region: Region = getattr(Region, kind)(*arguments, normalized=normalized)
    return region


def model_path(given: str | None) -> str:
    """The folder that --model names, or the quickstart's.

    Raises:
        FileNotFoundError: when neither is there.
    """
    if given is None and not QUICKSTART_MODEL.is_dir():
        raise FileNotFoundError(
            f"no --model given, and {QUICKSTART_MODEL} does not exist; `make quickstart` trains one"
        )
    return given or str(QUICKSTART_MODEL)
