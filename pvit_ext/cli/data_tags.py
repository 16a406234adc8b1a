"""``pvit-ext data tags``: the tags of each image, written into the records."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pvit_ext.cli.options import add_map_options, add_tagger_options


def add(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "tags",
        help="write what a tagger sees in each image into the records",
        description='Write the records of a training file with "tags", what a tagger sees in their images. OUT appears '
        "when it is complete, with OUT.report.json; an interrupted call continues where it stopped. A record whose "
        "image the tagger does not know stays without tags and is counted.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the training file")
    parser.add_argument("--image-folder", type=Path, metavar="DIR", help="folder of the images")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="the training file to write, JSON Lines")
    add_tagger_options(parser, required=True)
    add_map_options(parser)
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status."""
    from pvit_ext.data.tags.run import TagJob, tag_records
    from pvit_ext.data.tags.taggers import load_tagger

    tagger = load_tagger(args.tagger, args.names, args.threshold)
    options = {"max_bad_records": args.max_bad_records, "workers": args.workers, "backend": args.backend}
    print(f"{args.out}\n{tag_records(TagJob(args.file, args.out, tagger, args.image_folder, **options))}")
    return 0
