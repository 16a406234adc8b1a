"""A record as HTML: its images with numbered regions, and its dialogue."""

from __future__ import annotations

import html
from collections.abc import Iterator
from itertools import count

from pvit_ext.data.html_page import jpeg_data_url, mark_regions
from pvit_ext.data.records import Record
from pvit_ext.data.schema import NO_TASK, images_of, task_of
from pvit_ext.prompt import IMAGE_PLACEHOLDER
from pvit_ext.regions.drawing import draw_regions
from pvit_ext.regions.image import ImageError, load_image
from pvit_ext.regions.region import RegionError

NO_REGION = "no region"


def kinds_of(record: Record) -> list[str]:
    """The kinds of a record's regions, each once; :data:`NO_REGION` where it has none."""
    return sorted(set(record.kinds)) or [NO_REGION]


def make_card(record: Record, side: int) -> str:
    """The HTML of a record; what is wrong with its images or regions stands instead.

    Args:
        record: of a file.
        side: longer side of an image, pixels.
    """
    kinds, task = kinds_of(record), task_of(record.data)
    try:
        images = "".join(_images(record, side))
    except (ImageError, RegionError, OSError) as error:
        images = f'<p class="problem">{html.escape(str(error))}</p>'
    marks = "".join(f'<span class="kind">{html.escape(kind)}</span>' for kind in kinds)
    if task != NO_TASK:
        marks = f'<span class="task">{html.escape(task)}</span>{marks}'
    return (
        f'<article data-task="{html.escape(task)}" data-kinds="{html.escape(" ".join(map(as_word, kinds)))}">'
        f'<div class="images">{images or _NO_IMAGE}</div><div class="said">'
        f'<header>{marks}<span class="where">{html.escape(record.location)}</span></header>'
        f"{_dialogue(record)}</div></article>"
    )


_NO_IMAGE = '<p class="none">text alone</p>'


def as_word(kind: str) -> str:
    """A kind of region as one word of an attribute."""
    return kind.replace(" ", "-")


def _images(record: Record, side: int) -> Iterator[str]:
    images = [load_image(file) for file in record.image_files]
    regions = record.resolve([image.size for image in images])
    for number, (name, image) in enumerate(zip(images_of(record.data), images, strict=True)):
        indices = [index for index, region in enumerate(regions) if region.image == number]
        drawn = draw_regions(image, [regions[index] for index in indices], side, [index + 1 for index in indices])
        caption, data = html.escape(name), jpeg_data_url(drawn, 80)
        yield (
            f'<figure><img loading="lazy" width="{drawn.width}" height="{drawn.height}" src="{data}" alt="{caption}">'
            f'<figcaption title="{caption}">{caption}</figcaption></figure>'
        )


def _dialogue(record: Record) -> str:
    """Questions and answers; a single ``<image>`` goes without saying, several are numbered."""
    several, images, number = len(images_of(record.data)) > 1, count(1), 1
    turns = []
    for index, turn in enumerate(record.data["conversations"]):
        text, number = mark_regions(turn["value"].strip(), number)
        shown = html.escape(IMAGE_PLACEHOLDER)
        while shown in text:
            text = text.replace(shown, f'<i class="image">image {next(images)}</i> ' if several else "", 1)
        turns.append(f'<p class="{"answer" if index % 2 else "question"}">{text.strip()}</p>')
    pairs = zip(turns[::2], turns[1::2], strict=True)
    return "".join(f'<div class="turn">{question}{answer}</div>' for question, answer in pairs)
