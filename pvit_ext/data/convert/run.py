"""``pvit-ext data convert``: from a source to a file of records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pvit_ext.data.convert.annotation import SOURCE_KEY, AnnotatedImage
from pvit_ext.data.convert.base import FORMATS, DataFormat, ReadOptions, SourceError
from pvit_ext.data.convert.detect import resolve
from pvit_ext.data.convert.image_folder import ImageFolder
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.output import Output, check_out
from pvit_ext.data.convert.report import Report
from pvit_ext.data.convert.texts import problem_of
from pvit_ext.data.held_out import HeldOut, read_held_out, remarks_of
from pvit_ext.data.json_records import json_line
from pvit_ext.data.map_step import Batch, map_in_order
from pvit_ext.data.tasks.base import Task
from pvit_ext.data.tasks.box_text import BOX_TEXTS
from pvit_ext.data.tasks.inventory import inventory
from pvit_ext.data.tasks.options import TaskOptions
from pvit_ext.data.tasks.records import records_of
from pvit_ext.data.tasks.selection import DEFAULT, Selection, select_tasks

VERSION = 4
"""Grows when the same source gives other records, so that no half-done conversion goes on."""
_BATCH = 64
_STILL_COMPLETE = (Reason.DUPLICATE, Reason.HIDDEN)
"""Reasons for which an image still has all its objects: not to be seen in it, or there a second time."""


@dataclass(frozen=True)
class Job:
    """What to convert, and how.

    Args:
        format: name, or ``auto``.
        source: file or folder.
        image_folder: that the records' images are relative to.
        out: JSON Lines to write.
        settings: of the format.
        seed: of templates and captions.
        turns: questions in a record, 0 for no limit.
        boxes: write boxes, not masks and polygons.
        keep_source: keep what the source says under ``source``.
        open_images: look for the images and read their sizes.
        max_bad_records: how many bad items to survive.
        workers: processes.
        backend: that the workers run on, see :func:`~pvit_ext.data.map_step.map_in_order`.
        tasks: what to ask, see :func:`~pvit_ext.data.tasks.selection.select_tasks`.
        negatives: also ask about what is not there.
        box_jitter: move each side of a box by up to this part of its extent.
        box_text: name of the convention of boxes in answers.
        exclude_leaks: leave out what the source itself says is of val or test, where no part is asked for.
        held_out: files of evaluation data whose photographs are left out too.
    """

    format: str
    source: Path
    image_folder: Path
    out: Path
    settings: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    turns: int = 10
    boxes: bool = False
    keep_source: bool = True
    open_images: bool = True
    max_bad_records: int = 0
    workers: int = 1
    backend: str = "local"
    tasks: Sequence[str] = (DEFAULT,)
    negatives: bool = False
    box_jitter: float = 0.0
    box_text: str = "fractions"
    exclude_leaks: bool = True
    held_out: Sequence[Path] = ()

    def options(self, name: str) -> TaskOptions:
        """How records are written.

        Args:
            name: of the format.

        Raises:
            ValueError: for values out of range.
        """
        if self.box_text not in BOX_TEXTS:
            raise ValueError(f"--box-text is one of {', '.join(BOX_TEXTS)}, got {self.box_text!r}")
        return TaskOptions(
            name,
            self.seed,
            self.turns,
            self.boxes,
            self.keep_source,
            self.negatives,
            self.box_jitter,
            BOX_TEXTS[self.box_text],
        )


@dataclass(frozen=True)
class Work:
    """Reads units and writes their records; sent to the workers once.

    Args:
        reader: the format with its source.
        tasks: what to ask.
        options: how records are written.
        held_out: what must not be trained on.
    """

    reader: DataFormat
    tasks: Sequence[Task]
    options: TaskOptions
    held_out: HeldOut

    @cached_property
    def _classes(self) -> Sequence[str] | None:
        """The classes of the reader, which knows them once units are read."""
        return self.reader.classes()

    def __call__(self, units: Sequence[Any]) -> tuple[bytes, Notes]:
        """The records of some units as lines, and what was noted."""
        notes = Notes()
        lines: list[bytes] = []
        for unit in units:
            lines += map(json_line, self._records(unit, notes))
        return b"".join(lines), notes

    def _records(self, unit: Any, notes: Notes) -> Iterator[dict[str, Any]]:
        seen = len(notes.drops)
        try:
            for image in self.reader.read(unit, notes):
                new, seen = notes.drops[seen:], len(notes.drops)
                yield from self._of_image(image, all(drop.reason in _STILL_COMPLETE for drop in new), notes)
                seen = len(notes.drops)
        except BadItem as error:
            notes.bad(error.location or self.reader.source.name, str(error))

    def _of_image(self, image: AnnotatedImage, complete: bool, notes: Notes) -> Iterator[dict[str, Any]]:
        """The records of an image.

        Args:
            image: what is known.
            complete: nothing of it was left out.
            notes: takes what is kept, and what is not.
        """
        location = f"{self.reader.source.name} {image.item}"
        if image.is_empty:
            notes.drop(Reason.NO_LABELS, location, str(image.image))
            return
        names = [image.image] if isinstance(image.image, str) else list(image.image)
        if reason := self.held_out.reason(names, image.coco_id):
            notes.drop(Reason.HELD_OUT, location, reason, max(len(image.objects), 1))
            notes.met |= {found[1] for found in [self.held_out.met(names, image.coco_id)] if found}
            return
        notes.has.update(inventory(image))
        unnamed = [item for item in image.objects if not item.label and not item.captions]
        if unnamed:
            notes.count("objects without a label, kept in `source` alone", len(unnamed))
        complete = complete and all(item.label for item in image.objects)
        records = [record for task in self.tasks for record in self._of_task(image, task, complete, notes)]
        for record in records[1:]:
            record.pop(SOURCE_KEY, None)
        yield from records
        if records:
            notes.count("images")
            notes.count("records", len(records))
            notes.count("objects", len(image.objects))
        else:
            kind = Reason.NO_NAME if self.tasks[0].name == DEFAULT else Reason.NO_QUESTION
            notes.drop(kind, location, "nothing to ask about", max(len(image.objects), 1))

    def _of_task(self, image: AnnotatedImage, task: Task, complete: bool, notes: Notes) -> list[dict[str, Any]]:
        records = []
        for record in records_of(image, task, self.options, self._classes, complete, notes.counts):
            if problem := problem_of(record):
                notes.bad(f"{self.reader.source.name} {image.item}", problem)
                continue
            notes.count("questions", len(record["conversations"]) // 2)
            notes.count("regions", len(record.get("regions", [])))
            records.append(record)
        if task.name != DEFAULT:
            notes.count(f"records of {task.name}", len(records))
            if not records:
                notes.count(f"images that give no question for {task.name}")
        return records


def convert(job: Job) -> Report:
    """Convert a source; the file appears under its name when it is complete.

    A conversion that was interrupted goes on where it stood, if source, settings and this package are unchanged.

    Args:
        job: what to convert, and how.

    Returns:
        what was written, and what was dropped and why; also as FILE.report.json and, item by item, FILE.dropped.jsonl.

    Raises:
        SourceError: for a source that is not what it is said to be, is damaged, or gives no record.
    """
    selection = select_tasks(job.tasks)
    name = resolve(job.format, job.source)
    image_folder = ImageFolder(job.image_folder, job.open_images)
    reader = FORMATS.require(name)(job.source, ReadOptions(image_folder, job.settings, job.exclude_leaks))
    check_out(job.out, [job.source, *reader.files(), *job.held_out])
    options = job.options(name)
    selection.check(options)
    try:
        return _run(job, reader, options, selection)
    except BadItem as error:
        raise SourceError(f"{job.source}: {error.location + ': ' if error.location else ''}{error}") from error


def _run(job: Job, reader: DataFormat, options: TaskOptions, selection: Selection) -> Report:
    from tqdm import tqdm

    held_out = HeldOut(read_held_out(job.held_out))
    versions = [(task.name, task.version) for task in selection.tasks]
    key = repr(
        (
            VERSION,
            reader.fingerprint(),
            options,
            versions,
            job.image_folder,
            job.open_images,
            job.exclude_leaks,
            held_out,
        )
    )
    report = Report(reader.name, job.source, job.max_bad_records)
    with Output(job.out, key, report) as output:
        skipped = output.batches
        batches = _batches(reader.units(), skipped)
        with tqdm(total=reader.total(), unit=" unit", desc=reader.name, initial=skipped * _BATCH) as bar:
            work = Work(reader, selection.tasks, options, held_out)
            for batch, (lines, notes) in map_in_order(work, batches, job.workers, job.backend):
                output.add(lines, notes)
                bar.update(len(batch))
        idle = selection.idle(report, reader.classes() is not None) if report.has else []
        idle += options.idle(report.counts)
        report.remarks = [*reader.remarks(), *output.check_images(), *idle, *remarks_of(held_out.why, report.met)]
        report.remarks += report.remarks_of_restored()
        report.check()
        report.held_out = dict(reader.held_out())
        output.finish()
    return report


def _batches(units: Iterator[Any], skipped: int) -> Iterator[Batch]:
    """Units in batches, without those of the first batches."""
    batch: list[Any] = []
    number = 0
    for unit in units:
        batch.append(unit)
        if len(batch) == _BATCH:
            if number >= skipped:
                yield batch
            batch, number = [], number + 1
    if batch and number >= skipped:
        yield batch
