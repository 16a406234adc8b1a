"""``pvit-ext ask --to prompt-embeds``: the questions as requests for an engine that takes embeddings."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pvit_ext.data.scan import BadRecord
    from pvit_ext.inference.questions import Question

PROMPT_EMBEDS = "prompt-embeds"


def add(group: argparse._ArgumentGroup) -> None:
    """Add the options to those of many questions."""
    group.add_argument(
        "--to",
        choices=(PROMPT_EMBEDS,),
        help="write requests for vLLM's --enable-prompt-embeds in place of answers, with --language-model",
    )
    group.add_argument(
        "--language-model", type=Path, metavar="DIR", help="the language model alone, written there if it is not yet"
    )


def check(args: argparse.Namespace) -> None:
    """Refuse what does not go with ``--to prompt-embeds``, or only with it.

    Raises:
        ValueError: saying what to give.
    """
    if args.to is None:
        if args.language_model is not None:
            raise ValueError(f"--language-model goes with --to {PROMPT_EMBEDS}")
        return
    if args.scores or args.choices is not None:
        raise ValueError(f"--to {PROMPT_EMBEDS} writes questions, there are no answers to score or choose yet")
    if args.language_model is None:
        raise ValueError(f"--to {PROMPT_EMBEDS} needs --language-model DIR, the checkpoint that vLLM serves")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(f"--to {PROMPT_EMBEDS} writes one file in one process: start it without a launcher")
    if args.out.exists():
        raise ValueError(f"--out {args.out} exists, and requests are written anew; name another file")


def run(
    args: argparse.Namespace, model: str, questions: Sequence[Question], bad: Sequence[BadRecord], cache: int
) -> int:
    """Write requests and, where it is not there, the language model; the exit status.

    Args:
        args: of the command.
        model: folder or hub id.
        questions: to write.
        bad: what could not be read as a question.
        cache: bytes kept of what was seen of images.

    Raises:
        RecordError: for more bad records than ``--max_bad_records``.
        ValueError: for questions with choices of their own, and for another checkpoint's language model.
    """
    from pvit_ext.evaluation.identity import checkpoint_mark
    from pvit_ext.hosts.loading import check_conv_version, load_pretrained_model
    from pvit_ext.inference import ImageFeatures, prompt_embeds
    from pvit_ext.inference.bad_questions import BadQuestions, check_bad, said_of
    from pvit_ext.inference.session import Session

    limit = args.max_bad_records or 0
    check_bad(bad, questions, limit)
    if chosen := [one.location for one in questions if one.choices]:
        raise ValueError(f"{chosen[0]} has choices, which a request cannot hold; leave them out")
    check_conv_version(model, args.base, args.conv_version)
    mark = checkpoint_mark(model, args.base)
    written = prompt_embeds.check_language_model(args.language_model, model, mark)
    tokenizer, loaded, processor, _ = load_pretrained_model(model, base=args.base, device=args.device, dtype=args.dtype)
    features = ImageFeatures(cache) if cache else None
    session = Session(loaded, tokenizer, processor, args.conv_version, args.system, features)
    options = prompt_embeds.request_options(session, str(args.language_model), args.max_new_tokens or 64)
    listed = BadQuestions(args.out)
    listed.start(bad)
    export = partial(prompt_embeds.export_language_model, loaded, tokenizer, processor, args.language_model, mark)
    size, export_or_none = args.batch_size or 8, None if written else export
    count = prompt_embeds.request_file(session, questions, args.out, options, listed, size, export_or_none)
    if problems := listed.problems():
        print(said_of(problems, listed.path), file=sys.stderr)
    print(f"{args.out}: {count} requests for `vllm serve {args.language_model} --enable-prompt-embeds`")
    return int(len(problems) > limit)
