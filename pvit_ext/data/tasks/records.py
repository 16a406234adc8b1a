"""Records of what tasks ask about an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pvit_ext.data.convert.annotation import SOURCE_KEY, AnnotatedImage, RegionSpec
from pvit_ext.data.convert.clipping import DECIMALS
from pvit_ext.data.convert.source_key import to_source
from pvit_ext.data.region_fields import parse_region
from pvit_ext.data.schema import TASK_KEY
from pvit_ext.data.tasks.base import Context, Dialogue, Task
from pvit_ext.data.tasks.basic import Basic
from pvit_ext.data.tasks.choice import Choice, draw
from pvit_ext.data.tasks.options import BOXED, MOVED, TaskOptions
from pvit_ext.prompt import IMAGE_PLACEHOLDER
from pvit_ext.regions.jitter import jitter_box
from pvit_ext.regions.region import Region


def records_of(
    image: AnnotatedImage,
    task: Task,
    options: TaskOptions,
    classes: Sequence[str] | None = None,
    complete: bool = False,
    counts: Counter[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """The records of a task about an image; the first of them keeps the source.

    Args:
        image: what is known.
        task: what to ask.
        options: how records are written.
        classes: that each label is one of, empty where they are not listed; None where a label may be any word.
        complete: every object of those classes in the image is among its ``objects``.
        counts: takes how many regions options changed.
    """
    context = Context(
        Choice(options.seed, task.version, image.item),
        options.turns,
        closed=classes is not None,
        complete=complete and classes is not None,
        classes=tuple(classes or ()),
        negatives=options.negatives,
        box_text=options.box_text,
    )
    named = not isinstance(task, Basic)
    item = f"{image.item}/{task.name}" if named else image.item
    fields = {TASK_KEY: task.name, **task.fields(context)} if named else {}
    for number, dialogue in enumerate(task.dialogues(image, context)):
        name = f"{item}/{dialogue.name}" if dialogue.name else f"{item}#{number}" if number else item
        record = _record(f"{options.format}/{name}", image, dialogue, options, fields)
        if counts is not None:
            _count_changed(image, dialogue, options, record.get("regions", []), counts)
        if options.keep_source and not number:
            moved = options.boxes or options.box_jitter
            indices = {index: at for at, index in reversed(list(enumerate(dialogue.objects)))}
            record[SOURCE_KEY] = to_source(options.format, image, {} if moved else indices)
        yield record


def _record(
    name: str, image: AnnotatedImage, dialogue: Dialogue, options: TaskOptions, fields: Mapping[str, Any]
) -> dict[str, Any]:
    images = [image.image] if isinstance(image.image, str) else list(image.image)
    lead = "" if any(IMAGE_PLACEHOLDER in text for text in dialogue.texts) else f"{IMAGE_PLACEHOLDER}\n" * len(images)
    record: dict[str, Any] = {
        "id": name,
        "image": image.image if isinstance(image.image, str) else images,
        "conversations": [
            {"from": "gpt" if number % 2 else "human", "value": text if number else lead + text}
            for number, text in enumerate(dialogue.texts)
        ],
        **fields,
    }
    if regions := _regions(image, dialogue, options):
        record["regions"] = [_jittered(spec, image, options, name, at) for at, spec in enumerate(regions)]
    return record


def _regions(image: AnnotatedImage, dialogue: Dialogue, options: TaskOptions) -> list[RegionSpec]:
    if not options.boxes:
        return [*dialogue.regions, *(image.objects[index].region for index in dialogue.objects)]
    given = [_boxed(region, image) for region in dialogue.regions]
    objects = [image.objects[index] for index in dialogue.objects]
    return [*given, *(list(one.box) if one.box is not None else one.region for one in objects)]


def _count_changed(
    image: AnnotatedImage, dialogue: Dialogue, options: TaskOptions, written: Sequence[Any], counts: Counter[str]
) -> None:
    """Count the regions that are written otherwise than the source has them."""
    given = [*dialogue.regions, *(image.objects[index].region for index in dialogue.objects)]
    plain = [not isinstance(region, Mapping) for region in written]
    if options.boxes:
        counts[BOXED] += sum(now and isinstance(before, Mapping) for now, before in zip(plain, given, strict=True))
    if options.box_jitter:
        counts[MOVED] += sum(plain)


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


def _jittered(region: RegionSpec, image: AnnotatedImage, options: TaskOptions, name: str, at: int) -> RegionSpec:
    """A plain box moved a little, always the same for the same seed and record; other regions as they are."""
    if not options.box_jitter or isinstance(region, Mapping):
        return region
    if image.size is None:
        raise ValueError(f"{name}: --box-jitter needs the image's size; open images, without --no-images")
    chance = np.random.default_rng(draw(options.seed, name, at))
    moved = jitter_box(Region.box(*region).resolve(image.size), options.box_jitter, chance)
    return [round(value, DECIMALS) for point in moved.points for value in point]
