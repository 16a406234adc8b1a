"""``pvit-ext ask --file`` and ``--folder``: many questions, into a file of answers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pvit_ext.cli import ask_embeds
from pvit_ext.cli.options import add_feature_cache, count, count_from_zero, feature_cache_bytes, flag_of, flags_of

if TYPE_CHECKING:
    from pvit_ext.data.scan import BadRecord
    from pvit_ext.inference.questions import Question

BATCH_SIZE = 8
OF_FOLDER = ("region_file", "template", "format")
"""Options that go with --folder alone."""
OF_MANY = ("out", "batch_size", "max_bad_records", "feature_cache", "image_folder", "to", "language_model", *OF_FOLDER)
"""Options that one question has no use for."""
FLAGS = {"region_file": "--regions", "template": "--question"}
"""Of options whose flag has another name."""


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options of many questions to the command."""
    group = parser.add_argument_group(
        "many questions",
        "Answers go to a JSON Lines file, under the id of the question; the same command continues where it stopped. "
        "Several processes share the work under a launcher: torchrun --nproc_per_node 8 -m pvit_ext.cli ask ...",
    )
    group.add_argument("--file", type=Path, metavar="QUERIES", help="JSON Lines of questions, or a data file")
    group.add_argument("--image-folder", type=Path, metavar="DIR", help="of --file's images, default its own folder")
    group.add_argument("--folder", type=Path, metavar="DIR", help="folder of images, with --regions and --question")
    group.add_argument(
        "--regions",
        type=Path,
        dest="region_file",
        metavar="FILE",
        help="regions on them: a file or folder of any format of `pvit-ext data convert --formats`, or our records",
    )
    group.add_argument("--question", dest="template", metavar="TEXT", help="asked about each region, with one <region>")
    group.add_argument(
        "--format", metavar="NAME", help="of --regions, default found by looking at it; records are our own"
    )
    group.add_argument(
        "--out",
        type=Path,
        metavar="ANSWERS",
        help="file of the answers, JSON Lines; one that is there already is continued",
    )
    group.add_argument("--batch-size", type=count, metavar="N", help=f"questions at a time, default {BATCH_SIZE}")
    group.add_argument(
        "--max-bad-records",
        "--max_bad_records",
        type=count_from_zero,
        metavar="N",
        help="go on with up to N bad questions, default 0",
    )
    add_feature_cache(group, "images", "--image-cache")
    ask_embeds.add(group)


def run(args: argparse.Namespace, model: str, choices: tuple[str, ...]) -> int:
    """Answer a file's or a folder's questions; the exit status.

    Args:
        args: of the command.
        model: folder or hub id.
        choices: of every question; none where answers are written freely.
    """
    questions, bad = _of_known_tasks(*_questions(args, choices), model, args.base)
    cache = feature_cache_bytes(args)
    if args.to is not None:
        return ask_embeds.run(args, model, questions, bad, cache)

    from pvit_ext.evaluation.identity import checkpoint_mark
    from pvit_ext.inference.answering import Asking, answer_file
    from pvit_ext.inference.bad_questions import said_of

    asking = Asking(
        model,
        checkpoint_mark(model, args.base),
        base=args.base,
        batch_size=args.batch_size or BATCH_SIZE,
        max_new_tokens=args.max_new_tokens or Asking.max_new_tokens,
        conv_version=args.conv_version,
        system=args.system,
        device=args.device,
        dtype=args.dtype,
        scores=args.scores,
        image_bytes=cache,
    )
    limit = args.max_bad_records or 0
    outcome = answer_file(args.out, questions, bad, asking, limit)
    if outcome is None:
        return 0
    print(f"{args.out}: {outcome.answers} answers, {outcome.before} of them from before")
    if outcome.problems:
        print(said_of(outcome.problems, outcome.listed), file=sys.stderr)
    return int(len(outcome.problems) > limit)


def _questions(args: argparse.Namespace, choices: tuple[str, ...]) -> tuple[list[Question], list[BadRecord]]:
    if args.file is not None:
        from pvit_ext.inference.questions import read_questions

        return read_questions(args.file, args.image_folder or args.file.parent, choices)
    from pvit_ext.inference.region_questions import Template, region_questions

    template = Template(args.template, choices)
    found = region_questions(args.region_file, args.folder, template, args.format or "auto")
    for what, number in found.passed_over.items():
        if number:
            print(f"passed over: {number} of {what}", file=sys.stderr)
    return found.questions, found.bad


def _of_known_tasks(
    questions: list[Question], bad: list[BadRecord], model: str, base: str | None
) -> tuple[list[Question], list[BadRecord]]:
    """The questions whose task the model knows; those of another are bad, before the model is loaded."""
    from pvit_ext.adapters.lion.tasks import Tasks
    from pvit_ext.evaluation.identity import stored_region_config
    from pvit_ext.inference.bad_questions import without_unknown_tasks

    known, unknown = without_unknown_tasks(questions, Tasks.of(stored_region_config(model, base)))
    return known, [*bad, *unknown]


def check(args: argparse.Namespace) -> None:
    """Refuse what is missing, is not there, or does not apply.

    Raises:
        ValueError: saying what to give.
    """
    if args.file is not None and args.folder is not None:
        raise ValueError("--file holds questions, --folder asks one about each region; give one of them")
    if args.file is not None:
        if given := [name for name in OF_FOLDER if getattr(args, name) is not None]:
            raise ValueError(
                f"{flags_of(given, FLAGS)} goes with --folder; --file brings its own questions and regions"
            )
    else:
        if args.image_folder is not None:
            raise ValueError("--image-folder goes with --file; --folder names the folder of the images")
        if args.region_file is None or args.template is None:
            raise ValueError('--folder DIR needs --regions FILE and --question "What is <region>?"')
    if args.out is None:
        raise ValueError("many questions need --out ANSWERS.jsonl")
    _check_places(args)
    ask_embeds.check(args)


def _check_places(args: argparse.Namespace) -> None:
    if args.file is not None and not args.file.is_file():
        raise ValueError(f"--file {args.file}: there is no such file")
    if args.region_file is not None and not args.region_file.exists():
        raise ValueError(f"--regions {args.region_file}: there is no such file or folder")
    for name in ("folder", "image_folder"):
        path = getattr(args, name)
        if path is not None and not path.is_dir():
            raise ValueError(f"{flag_of(name)} {path}: there is no such folder")
    if args.out.is_dir():
        raise ValueError(f"--out {args.out} is a folder; name a file, such as {args.out}/answers.jsonl")
    if args.file is not None and args.out.exists() and args.out.samefile(args.file):
        raise ValueError(f"--out {args.out} is the file of the questions; name another")
