"""``pvit-ext data show``: a training file as a page to look at."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command to the parser of ``pvit-ext data``."""
    parser = commands.add_parser(
        "show",
        help="look at a training file: a page of records with drawn regions, and plots",
        description="Write DIR/index.html, one page without any network: numbers and plots of all that the file holds, "
        "and records with their regions drawn, to search and to filter by task and by kind of region.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="LLaVA's JSON, with `regions` in its records")
    parser.add_argument("--image-folder", type=Path, required=True, metavar="DIR", help="folder of the images")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for index.html")
    parser.add_argument("--limit", type=int, default=100, metavar="N", help="records on the page (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed that draws them where the file has more (default 0)")
    parser.add_argument(
        "--side", type=int, default=512, metavar="PIXELS", help="longer side of an image (default %(default)s)"
    )
    parser.set_defaults(handler=run)


def run(args: argparse.Namespace) -> int:
    """Run the command; the exit status: 1 where the file has bad records."""
    from pvit_ext.data.show.page import ShowOptions, show
    from pvit_ext.data.summary import counted

    page, shown, bad = show(args.file, args.image_folder, args.out, ShowOptions(args.limit, args.seed, args.side))
    print(f"{page}: {counted(shown, 'record')}, {page.stat().st_size / 1e6:.1f} MB")
    if bad:
        print(f"{bad:,} bad records are not shown: pvit-ext data check {args.file} --image-folder {args.image_folder}")
    return 1 if bad else 0
