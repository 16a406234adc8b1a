"""``pvit-ext data tags``: the tags of each image, written into the records once for all epochs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.notes import Notes
from pvit_ext.data.convert.output import Output, check_out
from pvit_ext.data.convert.report import Report
from pvit_ext.data.held_out import reported
from pvit_ext.data.image_files import path_of
from pvit_ext.data.json_records import JsonFileError, json_line, read_json_records
from pvit_ext.data.map_step import map_in_order
from pvit_ext.data.scan import name_of, state_of
from pvit_ext.data.schema import images_of, parse_record
from pvit_ext.data.tags.taggers import DetectorTagger, TagFile, Tagger, TaggerError, union
from pvit_ext.data.tags.tags import TAGS_KEY
from pvit_ext.regions.image import load_image

VERSION = 1
"""Grows when the same records and tagger give other tags, so that no half-done run goes on."""
FOUND, NOTHING = "records with tags", "records in whose image the tagger found nothing"
UNKNOWN = "records without tags: the tagger knows nothing of their image"
NO_IMAGE, REPLACED = "records without an image", "records whose own tags were replaced"
_BATCH, _KEPT, _SHOWN = 32, 100_000, 5


@dataclass(frozen=True)
class TagJob:
    """What to tag, and how.

    Args:
        source: a training file.
        out: JSON Lines to write, the same records with ``tags``.
        tagger: says what is in an image.
        image_folder: of the images; a tagger that looks at them needs it. If given, every image must be in it.
        max_bad_records: how many bad records to pass over.
        workers: processes.
        backend: see :func:`~pvit_ext.data.map_step.map_in_order`.
    """

    source: Path
    out: Path
    tagger: Tagger
    image_folder: Path | None = None
    max_bad_records: int = 0
    workers: int = 1
    backend: str = "local"


class Tagged(NamedTuple):
    """The records of a batch as lines, what was noted, and images that the tagger does not know."""

    lines: bytes
    notes: Notes
    unknown: list[str]


@dataclass(frozen=True)
class _Work:
    """Tags records; sent to the workers once, each of which asks for an image once while it remembers it."""

    tagger: Tagger
    folder: str | None
    known: dict[str, list[str] | None] = field(default_factory=dict)

    def __call__(self, batch: Sequence[tuple[str, Any]]) -> Tagged:
        """The records of (location, value) pairs."""
        notes, lines, unknown = Notes(), list[bytes](), list[str]()
        for location, value in batch:
            try:
                parse_record(value, self.folder)
                lines.append(json_line(self._tagged(value, notes, unknown)))
            except TaggerError:  # no fault of the record
                raise
            except (ValueError, OSError, RecursionError) as error:
                notes.bad(location, str(error))
        return Tagged(b"".join(lines), notes, unknown)

    def _tagged(self, record: dict[str, Any], notes: Notes, unknown: list[str]) -> dict[str, Any]:
        own = {key: value for key, value in record.items() if key != TAGS_KEY}
        names = images_of({key: value for key, value in record.items() if value is not None})
        found = [self._of_image(name) for name in names]
        unknown += [name for name, tags in zip(names, found, strict=True) if tags is None]
        notes.count("records")
        if record.get(TAGS_KEY) is not None:
            notes.count(REPLACED)
        if not names or None in found:
            notes.count(UNKNOWN if names else NO_IMAGE)
            return own
        tags = union([one for one in found if one])
        notes.count(FOUND if tags else NOTHING)
        return own | {TAGS_KEY: tags}

    def _of_image(self, name: str) -> list[str] | None:
        if name not in self.known:
            if len(self.known) >= _KEPT:
                self.known.clear()
            self.known[name] = self.tagger.tags(name, lambda: self._load(name))
        return self.known[name]

    def _load(self, name: str) -> Image.Image:
        assert self.folder is not None
        return load_image(path_of(self.folder, name))


def tag_records(job: TagJob) -> Report:
    """Tag a training file; the result appears under its name when it is complete.

    A run that was interrupted goes on where it stood, if the source, the tagger and this package are unchanged.

    Args:
        job: what to tag, and how.

    Returns:
        how many records have tags and how many have none, and why; also as FILE.report.json.

    Raises:
        ValueError: for bad records, a tagger that fails, that knows none of the images or not which of two, and one
            that looks at images where there is no folder of them.
    """
    from tqdm import tqdm

    folder = None if job.image_folder is None else str(job.image_folder)
    if folder is None and job.tagger.reads_images:
        raise ValueError(f"the tagger {job.tagger.source} looks at the images: give --image-folder")
    if folder is not None and not Path(folder).is_dir():
        raise NotADirectoryError(f"the image folder {folder} is not there, or is no folder")
    check_out(job.out, [job.source, *_files_of(job.tagger)])
    key = repr((VERSION, state_of(job.source), folder, job.tagger.key))
    report, unknown = Report("tags", job.source, job.max_bad_records), list[str]()
    with Output(job.out, key, report) as output:
        names = dict[str, None]()
        if isinstance(job.tagger, TagFile):  # here, since no worker sees all records
            total = _count(job.source, names)
            job.tagger.check_names(names)
        else:
            total = _count(job.source, None)
        with tqdm(total=total, unit=" records", desc="tags", initial=min(output.batches * _BATCH, total)) as bar:
            work = _Work(job.tagger, folder)
            batches = _batches(job.source, output.batches)
            for batch, tagged in map_in_order(work, batches, job.workers, job.backend):
                output.add(tagged.lines, tagged.notes)
                new = [name for name in dict.fromkeys(tagged.unknown) if name not in unknown]
                unknown += new[: _SHOWN - len(unknown)]
                bar.update(len(batch))
        _check(report, job.tagger, unknown)
        report.held_out, report.remarks = reported([job.source])
        report.remarks += [f"no tags for images such as {', '.join(unknown)}"] if unknown else []
        output.finish()
    return report


def _files_of(tagger: Tagger) -> list[Path]:
    """Files that a tagger reads."""
    names = tagger.names_file if isinstance(tagger, DetectorTagger) else None
    return [Path(tagger.source), *([names] if names else [])]


def _count(source: Path, names: dict[str, None] | None) -> int:
    """How many records a file has; puts the names of their images into a dict, if one is given."""
    count = 0
    for count, found in enumerate(read_json_records(source), 1):  # noqa: B007 - the last one counts
        if names is not None and isinstance(found.value, dict):
            named = found.value.get("image")
            names |= {name: None for name in (named if isinstance(named, list) else [named]) if isinstance(name, str)}
    return count


def _check(report: Report, tagger: Tagger, unknown: Sequence[str]) -> None:
    report.check()
    if report.counts[UNKNOWN] and not report.counts[FOUND] + report.counts[NOTHING]:
        raise SourceError(
            f"the tagger {tagger.source} knows none of the images of {report.counts[UNKNOWN]:,} records, such as "
            f"{', '.join(unknown)}: are its names those of the records?"
        )


def _batches(source: Path, skipped: int) -> Iterator[list[tuple[str, Any]]]:
    """(location, value) of the records in batches, without those of the first batches."""
    batch: list[tuple[str, Any]] = []
    for number, found in enumerate(read_json_records(source)):
        if isinstance(found.value, JsonFileError):
            raise ValueError(f"{source} line {found.line}: {found.value}; correct the file")
        if number < skipped * _BATCH:
            continue
        batch.append((name_of(source.name, found.line, found.value), found.value))
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
