"""``pvit-ext ask --tags`` and ``--tagger``: what is in the image, for a model that reads tags."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pvit_ext.cli.options import add_tagger_options

if TYPE_CHECKING:
    from PIL import Image

    from pvit_ext.data.tags.taggers import Tagger

OPTIONS = ("tags", "tagger", "names", "threshold")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options to the command."""
    parser.add_argument(
        "--tags", type=_tags, metavar="A,B,...", help="what is in the image, for a model that reads tags"
    )
    add_tagger_options(parser)


def chosen_tagger(args: argparse.Namespace) -> Tagger | None:
    """The tagger that is asked for, if any.

    Raises:
        ValueError: for options that do not go together.
    """
    if args.tagger is None:
        if given := [name for name in ("names", "threshold") if getattr(args, name) is not None]:
            raise ValueError(f"--{given[0]} belongs to a detector: give --tagger FILE.onnx too")
        return None
    if args.tags is not None:
        raise ValueError("--tags and --tagger both say what is in the image; give one of them")
    from pvit_ext.data.tags.taggers import load_tagger

    return load_tagger(args.tagger, args.names, args.threshold)


def tags_by(tagger: Tagger, name: str, image: Image.Image) -> list[str]:
    """The tags of an image, said on the terminal.

    Raises:
        ValueError: for an image that the tagger does not know.
    """
    tags = tagger.tags(name, lambda: image)
    if tags is None:
        raise ValueError(f"the tagger {tagger.source} knows nothing of {name}; give --tags, or leave --tagger out")
    print(f"tags: {', '.join(tags) or 'none found, the question is asked without'}", file=sys.stderr)
    return tags


def _tags(text: str) -> list[str]:
    tags = [tag.strip() for tag in text.split(",")]
    if not all(tags):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of tags such as dog,car")
    return tags
