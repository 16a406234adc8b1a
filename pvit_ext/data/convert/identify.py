"""The default task: a question for every region that has a name or a description, and the answer that the source gives.

Conversations and questions of the source come first, as they are. Then each object is asked about: its captions where
it has some, else its label. An image with neither, but with captions, is asked about as an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pvit_ext.data.convert.annotation import SOURCE_KEY, AnnotatedImage, Annotation, RegionSpec
from pvit_ext.data.convert.source_key import to_source
from pvit_ext.data.convert.templates import CAPTION, DESCRIBE, NAME, VERSION, pick
from pvit_ext.data.region_fields import parse_region
from pvit_ext.regions.region import Region

_IMAGE = "<image>"


@dataclass(frozen=True)
class TaskOptions:
    """How records are written.

    Args:
        format: name of the format, the first part of a record's id.
        seed: chooses among templates and captions.
        turns: questions in one record; an image with more has several records. 0 for no limit.
        boxes: write each region as the box around it, where it has one.
        keep_source: keep what the source says under ``source``.
    """

    format: str
    seed: int = 0
    turns: int = 10
    boxes: bool = False
    keep_source: bool = True


@dataclass
class _Turn:
    question: str
    answer: str
    regions: list[RegionSpec] = field(default_factory=list)
    objects: list[int] = field(default_factory=list)


def identify(image: AnnotatedImage, options: TaskOptions) -> Iterator[dict[str, Any]]:
    """The records of an image.

    Args:
        image: what is known.
        options: how records are written.
    """
    number = 0
    for conversation in image.conversations:
        name = f"{image.item}/{conversation.id}" if conversation.id else _numbered(image.item, number)
        regions = [_boxed(region, image) if options.boxes else region for region in conversation.regions]
        yield _record(name, image, conversation.turns, regions, options, {} if not number else None)
        number += 1
    turns = [*_questions(image, options), *_objects(image, options)]
    if not turns and not image.conversations and image.captions:
        asked = pick(CAPTION, options.seed, VERSION, image.item)
        turns = [_Turn(asked, pick(image.captions, options.seed, image.item, "caption"))]
    step = options.turns or max(len(turns), 1)
    for start in range(0, len(turns), step):
        part = turns[start : start + step]
        regions = [region for turn in part for region in turn.regions]
        asked_about = [place for turn in part for place in turn.objects]
        places = {place: at for at, place in reversed(list(enumerate(asked_about)))} if not number else None
        texts = [text for turn in part for text in (turn.question, turn.answer)]
        yield _record(_numbered(image.item, number), image, texts, regions, options, places)
        number += 1


def _numbered(item: str, number: int) -> str:
    return f"{item}#{number}" if number else item


def _record(
    name: str,
    image: AnnotatedImage,
    texts: Sequence[str],
    regions: Sequence[RegionSpec],
    options: TaskOptions,
    places: dict[int, int] | None,
) -> dict[str, Any]:
    """One record; the first of an image, which has ``places``, keeps the source."""
    images = [image.image] if isinstance(image.image, str) else list(image.image)
    lead = "" if any(_IMAGE in text for text in texts) else f"{_IMAGE}\n" * len(images)
    record: dict[str, Any] = {
        "id": f"{options.format}/{name}",
        "image": image.image if isinstance(image.image, str) else images,
        "conversations": [
            {"from": "gpt" if number % 2 else "human", "value": text if number else lead + text}
            for number, text in enumerate(texts)
        ],
    }
    if regions:
        record["regions"] = list(regions)
    if options.keep_source and places is not None:
        record[SOURCE_KEY] = to_source(options.format, image, {} if options.boxes else places)
    return record


def _questions(image: AnnotatedImage, options: TaskOptions) -> Iterator[_Turn]:
    for item in image.questions:
        objects = [image.objects[place] for place in item.regions]
        yield _Turn(item.question, item.answer, [_region(one, options) for one in objects], list(item.regions))


def _objects(image: AnnotatedImage, options: TaskOptions) -> Iterator[_Turn]:
    for place, item in enumerate(image.objects):
        region = [_region(item, options)]
        for number, caption in enumerate(item.captions):
            asked = pick(DESCRIBE, options.seed, VERSION, image.item, place, number)
            yield _Turn(asked, caption, region, [place])
        if not item.captions and item.label:
            yield _Turn(pick(NAME, options.seed, VERSION, image.item, place), item.label, region, [place])


def _boxed(region: RegionSpec, image: AnnotatedImage) -> RegionSpec:
    """The box around a mask or outline; others, and those on other images, as they are."""
    if (
        not isinstance(region, Mapping)
        or image.size is None
        or region.get("image")
        or not {"mask", "polygon"} & set(region)
    ):
        return region
    spec = parse_region(region, "region", None)
    found = spec if isinstance(spec, Region) else spec.load(None, "region")
    return list(found.resolve(image.size).bounds(image.size))


def _region(item: Annotation, options: TaskOptions) -> RegionSpec:
    return list(item.box) if options.boxes and item.box is not None else item.region
