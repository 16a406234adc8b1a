"""Which image of the folder was taken for which name of the source: two names must not become one image.

Names of sources often begin with folders that the image folder has not, so that an image is found by the last part of
its name. Where the source has ``cam1/a.jpg`` and ``cam2/a.jpg``, one of them would get the other's image.
"""

from __future__ import annotations

import json
from pathlib import Path

from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.notes import Notes, is_end
from pvit_ext.data.held_out import photographs


def taken_lines(notes: Notes) -> bytes:
    """A line ``[name, asked]`` for each image that was used, to append to a file."""
    pairs = (json.dumps([name, asked]) for name, all_asked in notes.taken.items() for asked in sorted(all_asked))
    return "".join(f"{pair}\n" for pair in pairs).encode()


def check_taken(path: Path) -> list[str]:
    """What to tell of images that were found by the last part of their name alone.

    Args:
        path: of the lines of :func:`taken_lines`.

    Returns:
        a sentence with an example, or none.

    Raises:
        SourceError: where one image was taken for two names, none of which is the end of the other, and which do not
            bear the number of one photograph of COCO or Visual Genome.
    """
    longest: dict[str, str] = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            name, asked = json.loads(line)
            other = longest.setdefault(name, asked)
            if len(other) < len(asked):
                longest[name], other, asked = asked, asked, other
            if not (is_end(asked, other) or set(photographs(asked)) & set(photographs(other))):
                raise SourceError(
                    f"{name} would be the image of both {other} and {asked}: only the last part of a name was found. "
                    "Put each image into --image-folder under its whole name, or name the folder that holds both, or "
                    "take the entries of an image that you do not have out of the source"
                )
    guessed = {name: asked for name, asked in longest.items() if not is_end(asked, name)}
    return [
        f"images: {len(guessed):,} found by the last part of the name alone, such as {asked}: it is taken to be {name}"
        for name, asked in list(guessed.items())[:1]
    ]
