"""``pvit-ext data convert``: from a source to a file of records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvit_ext.data.convert.annotation import AnnotatedImage
from pvit_ext.data.convert.base import FORMATS, DataFormat, ReadOptions, SourceError
from pvit_ext.data.convert.detect import resolve
from pvit_ext.data.convert.identify import TaskOptions, identify
from pvit_ext.data.convert.notes import BadItem, Notes, Reason
from pvit_ext.data.convert.output import Output
from pvit_ext.data.convert.pictures import Pictures
from pvit_ext.data.convert.report import Report
from pvit_ext.data.convert.texts import problem_of
from pvit_ext.data.map_step import Batch, map_in_order

VERSION = 1
"""Of what a conversion writes: grows when the same source gives other records, so that no half-done one goes on."""
_BATCH = 64


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
        open_images: look for the pictures and read their sizes.
        max_bad_records: how many bad items to survive.
        workers: processes.
        backend: that the workers run on, see :func:`~pvit_ext.data.map_step.map_in_order`.
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


@dataclass(frozen=True)
class Work:
    """Reads units and writes their records; sent to the workers once.

    Args:
        reader: the format with its source.
        options: of the task.
    """

    reader: DataFormat
    options: TaskOptions

    def __call__(self, units: Sequence[Any]) -> tuple[bytes, Notes]:
        """The records of some units as lines, and what was noted."""
        notes, lines = Notes(), []
        for unit in units:
            for record in self._records(unit, notes):
                text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
                lines.append(text.encode("utf-8", "surrogatepass") + b"\n")
        return b"".join(lines), notes

    def _records(self, unit: Any, notes: Notes) -> Iterator[dict[str, Any]]:
        try:
            for image in self.reader.read(unit, notes):
                yield from self._of_image(image, notes)
        except BadItem as error:
            notes.bad(error.where or self.reader.source.name, str(error))

    def _of_image(self, image: AnnotatedImage, notes: Notes) -> Iterator[dict[str, Any]]:
        where = f"{self.reader.source.name} {image.item}"
        if image.is_empty:
            notes.drop(Reason.NO_LABELS, where, str(image.image))
            return
        for item in image.objects:
            if not item.label and not item.captions:
                notes.count("objects without a label, kept in `source` alone")
        written = 0
        for record in identify(image, self.options):
            if problem := problem_of(record):
                notes.bad(where, problem)
                continue
            written += 1
            notes.count("questions", len(record["conversations"]) // 2)
            notes.count("regions", len(record.get("regions", [])))
            yield record
        if written:
            notes.count("images")
            notes.count("records", written)
            notes.count("objects", len(image.objects))
        else:
            notes.drop(Reason.NO_NAME, where, "nothing to ask about", max(len(image.objects), 1))


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
    name = resolve(job.format, job.source)
    if not job.out.parent.is_dir():
        raise SourceError(f"{job.out.parent} is no folder; make it, or name another place for --out")
    pictures = Pictures(job.image_folder, job.open_images)
    reader = FORMATS.require(name)(job.source, ReadOptions(pictures, job.settings))
    options = TaskOptions(name, job.seed, job.turns, job.boxes, job.keep_source)
    try:
        return _run(job, reader, options)
    except BadItem as error:
        raise SourceError(f"{job.source}: {error.where + ': ' if error.where else ''}{error}") from error


def _run(job: Job, reader: DataFormat, options: TaskOptions) -> Report:
    from tqdm import tqdm

    key = repr((VERSION, reader.fingerprint(), options, job.image_folder, job.open_images))
    report = Report(reader.name, job.source, job.max_bad_records)
    with Output(job.out, key, report) as output:
        skipped = output.batches
        batches = _batches(reader.units(), skipped)
        with tqdm(total=reader.total(), unit=" unit", desc=reader.name, initial=skipped * _BATCH) as bar:
            work = Work(reader, options)
            for batch, (lines, notes) in map_in_order(work, batches, job.workers, job.backend):
                output.add(lines, notes)
                bar.update(len(batch))
        report.remarks = reader.remarks()
        report.check()
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
