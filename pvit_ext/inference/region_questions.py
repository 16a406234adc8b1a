"""One question about every region of a file of annotations, or of our records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.convert.base import FORMATS, ReadOptions
from pvit_ext.data.convert.detect import resolve
from pvit_ext.data.convert.image_folder import ImageFolder
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.image_files import path_of
from pvit_ext.data.json_records import read_json_records
from pvit_ext.data.region_fields import parse_region
from pvit_ext.data.scan import BadRecord, name_of
from pvit_ext.data.schema import images_of, parse_record
from pvit_ext.data.tags.tags import tags_of
from pvit_ext.inference.questions import Question, check_ids
from pvit_ext.prompt import NOT_READ, REGION_PLACEHOLDER, foreign_tag_of_question, hint_of_tags

RECORDS = "records"
"""The format of our own data files."""
_MEANT = frozenset({Reason.CROWD, Reason.DUPLICATE, Reason.HIDDEN, Reason.NO_LABELS, Reason.CANCELLED})
"""Reasons for which a region is no bad one."""


@dataclass
class Found:
    """The questions about a file's regions.

    Args:
        questions: one for each region.
        bad: what cannot be asked about.
        passed_over: of what is no object, how often it is there.
    """

    questions: list[Question] = field(default_factory=list)
    bad: list[BadRecord] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Template:
    """What is asked about each region.

    Args:
        text: with one ``<region>``.
        choices: of the answer; none where it is written freely.

    Raises:
        ValueError: for a text without ``<region>``, with several, or with a placeholder of other data sets.
    """

    text: str
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (count := self.text.count(REGION_PLACEHOLDER)) != 1:
            raise ValueError(
                f"--question is asked about each region in turn and has one <region>, this has {count}: {self.text!r}"
                f"{hint_of_tags([self.text])}"
            )
        if (tag := foreign_tag_of_question(self.text)) is not None:
            raise ValueError(f"--question: {tag[:40]!r} {NOT_READ}; write {REGION_PLACEHOLDER} for the one region")


def region_questions(source: Path, folder: Path, template: Template, format_name: str = "auto") -> Found:
    """A question about each region of a file.

    Args:
        source: of any format that ``pvit-ext data convert`` reads, or our records.
        folder: of the images.
        template: the question.
        format_name: of the source, ``records`` for ours, or ``auto``.

    Raises:
        ValueError: for a source of no known format, or with an id twice.
    """
    if format_name == "auto":
        format_name = RECORDS if _is_ours(source) else resolve("auto", source)
    read = _of_records if format_name == RECORDS else _of_format
    found = read(source, folder, template, format_name)
    check_ids(found.questions)
    return found


def _is_ours(source: Path) -> bool:
    return source.is_file() and "conversations" in Peek(source).item


def _of_records(source: Path, folder: Path, template: Template, _: str) -> Found:
    found = Found()
    for one in read_json_records(source):
        location = name_of(source.name, one.line, one.value)
        try:
            data, specs = parse_record(one.value, str(folder))
            said = tags_of(data)
        except ValueError as error:
            found.bad.append(BadRecord(location, f"{location}: {error}"))
            continue
        name, names = str(data.get("id", f"line {one.line}")), images_of(data)
        tags = tuple(said) if said is not None and len(names) == 1 else None  # those of all images say nothing of one
        found.passed_over["records without a region"] += not specs
        for number, spec in enumerate(specs):
            image, id = names[spec.image], f"{name}#{number}"
            about = {"image": image, "record": name, "region": number}
            found.questions.append(
                Question(id, (path_of(str(folder), image),), template.text, (replace(spec, image=0),), str(folder),
                         choices=template.choices, location=f"{location}, region {number}", about=about,
                         tags=tags)
            )  # fmt: skip
    return found


def _of_format(source: Path, folder: Path, template: Template, format_name: str) -> Found:
    reader = FORMATS.require(resolve(format_name, source))(
        source, ReadOptions(ImageFolder(folder), exclude_leaks=False)
    )
    found, notes = Found(), Notes()
    for unit in reader.units():
        try:
            for image in reader.read(unit, notes):
                found.questions += _of_image(image, folder, template, source.name)
        except BadItem as error:
            notes.bad(error.location or source.name, str(error))
    for drop in notes.drops:
        if drop.reason in _MEANT:
            found.passed_over[drop.reason.value] += drop.count
        else:
            found.bad.append(BadRecord(drop.location, f"{drop.location}: {drop.reason.value} ({drop.detail})"))
    return found


def _of_image(image: AnnotatedImage, folder: Path, template: Template, source: str) -> Iterator[Question]:
    name = _one(image.image)
    for number, item in enumerate(image.objects):
        id = f"{name}#{item.id or number}"
        region: Any = dict(item.region) if hasattr(item.region, "keys") else list(item.region)
        about = {"image": name, "region": region, **({"label": item.label} if item.label else {})}
        location = f"{source} {image.item}, region {item.id or number}"
        spec = parse_region(region, location, None)
        yield Question(
            id, (path_of(str(folder), name),), template.text, (spec,), str(folder), choices=template.choices,
            location=location, about=about,
        )  # fmt: skip


def _one(images: str | Sequence[str]) -> str:
    return images if isinstance(images, str) else images[0]
