"""``pvit-ext data mix``: from training files to one, in which any part has the proportions of all."""

from __future__ import annotations

import difflib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.notes import Notes
from pvit_ext.data.convert.output import Output, check_out
from pvit_ext.data.convert.report import Report
from pvit_ext.data.held_out import HeldOut, read_held_out, remarks_of, reported
from pvit_ext.data.json_records import json_line
from pvit_ext.data.mix.config import Mix, MixSource
from pvit_ext.data.mix.source import Survey, records_of_source, survey
from pvit_ext.data.scan import state_of
from pvit_ext.data.schema import NO_TASK, task_of

VERSION = 4
"""Grows when the same sources give other records, so that no half-done mixture goes on."""
_BATCH = 256


def mix_files(mix: Mix, out: Path, max_bad_records: int = 0, exclude_leaks: bool = True) -> Report:
    """Mix; the file appears under its name when it is complete.

    The records of each source stand in their order, those of all are interleaved. A mixture that was interrupted goes
    on where it stood, if the sources, the mixture and this package are unchanged.

    Args:
        mix: what to mix.
        out: JSON Lines to write.
        max_bad_records: how many bad records are survived.
        exclude_leaks: leave out photographs that ``mix.held_out``, the reports of ``data convert`` beside the sources,
            or COCO's own names say are of val or test.

    Returns:
        what was taken; also as FILE.report.json and, what was left out, FILE.dropped.jsonl.

    Raises:
        ValueError: for a source that is missing, bad, or gives no record, and for ``held_out`` without
            ``exclude_leaks``.
    """
    from tqdm import tqdm

    if mix.held_out and not exclude_leaks:
        raise ValueError(
            f"{mix.origin}: held_out names photographs to leave out, --no-exclude-leaks keeps them; give one of them"
        )
    _check_paths(mix, out)
    named = read_held_out(mix.held_out) if exclude_leaks else {}
    of_sources, warnings = reported(file for source in mix.sources for file in source.files)
    held_out = HeldOut(of_sources | named, coco_val=True) if exclude_leaks else HeldOut()
    key = repr((VERSION, mix, [state_of(file) for one in mix.sources for file in one.files], held_out))
    report = Report("mix", Path(mix.origin), max_bad_records)
    notes = Notes()
    surveys = [survey(one, held_out, notes, max_bad_records) for one in mix.sources]
    with Output(out, key, report) as output:
        if not output.batches:
            output.add(b"", notes)
        amounts = [_amount(source, found) for source, found in zip(mix.sources, surveys, strict=True)]
        with tqdm(total=sum(amounts), unit=" records", desc="mix") as bar:
            for number, batch in enumerate(_batches(mix, surveys, amounts), 1):
                if number >= output.batches:
                    output.add(b"".join(map(json_line, batch)), _counted(batch))
                bar.update(len(batch))
        report.remarks = [line for one in zip(mix.sources, surveys, amounts, strict=True) for line in _remarks(*one)]
        report.remarks += [*remarks_of(named, notes.met), *(warnings if exclude_leaks else ())]
        report.held_out = of_sources
        output.finish()
    return report


def _check_paths(mix: Mix, out: Path) -> None:
    files = [file for source in mix.sources for file in source.files]
    check_out(out, [*files, *mix.held_out, *([mix.file] if mix.file else [])])
    for source in mix.sources:
        for file in source.files:
            if not file.is_file():
                raise ValueError(f"source {source.name!r}: {file} is no file")


def _amount(source: MixSource, found: Survey) -> int:
    usable = int(found.usable.sum())
    if not usable:
        why = ""
        if source.tasks:
            has = ", ".join(f"{number:,} of {task}" for task, number in found.other_tasks.items()) or "none"
            why = f" of the tasks {', '.join(source.tasks)}; records of other tasks: {has}"
        if found.held_out:
            why += f"; {found.held_out:,} are of photographs that evaluation needs, --no-exclude-leaks keeps them"
        files = ", ".join(map(str, source.files))
        raise SourceError(f"source {source.name!r}: none of {len(found.usable):,} records in {files} is usable{why}")
    return source.amount(usable)


def _batches(mix: Mix, surveys: Sequence[Survey], amounts: Sequence[int]) -> Iterator[list[dict[str, Any]]]:
    readers = [
        records_of_source(source, found.times(source.name, amount, mix.seed))
        for source, found, amount in zip(mix.sources, surveys, amounts, strict=True)
    ]
    batch: list[dict[str, Any]] = []
    for number in interleaved(amounts):
        batch.append(next(readers[number]))
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def interleaved(amounts: Sequence[int]) -> Iterator[int]:
    """The numbers of sources, each as often as it has records, and as evenly as that goes.

    Args:
        amounts: of records, by source.
    """
    waiting = [(0.5 / amount, number, 0) for number, amount in enumerate(amounts) if amount]
    heapq.heapify(waiting)
    while waiting:
        _, number, done = waiting[0]
        yield number
        if done + 1 == amounts[number]:
            heapq.heappop(waiting)
        else:
            heapq.heapreplace(waiting, ((done + 1.5) / amounts[number], number, done + 1))


def _counted(batch: Sequence[Mapping[str, Any]]) -> Notes:
    notes = Notes()
    notes.count("records", len(batch))
    for record in batch:
        notes.count("questions", len(record["conversations"]) // 2)
        notes.count(f"records of {record['id'].partition(':')[0]}")
        task = task_of(record)
        notes.count("records that name no task" if task == NO_TASK else f"records with the task {task}")
    return notes


def _remarks(source: MixSource, found: Survey, amount: int) -> Iterator[str]:
    usable = int(found.usable.sum())
    times = f", each {amount / usable:.3g} times" if amount > usable else ""
    yield f"{source.name}: {amount:,} taken of {usable:,} usable records{times}"
    if source.at_most is not None and usable < source.at_most:
        yield f"{source.name}: it has fewer than the {source.at_most:,} that the mixture wants"
    if found.same_ids:
        yield f"{source.name}: {found.same_ids:,} records have an id that an earlier one has; they keep it"
    if found.other_tasks:
        others = ", ".join(f"{number:,} of {task}" for task, number in sorted(found.other_tasks.items()))
        yield f"{source.name}: left out for their task: {others}"
    for task in (task for task in source.tasks if task not in found.tasks):
        near = difflib.get_close_matches(task, [*found.tasks, *found.other_tasks], 1)
        yield f"WARNING: {source.name}: no record has the task {task}" + (f": is it {near[0]}?" if near else "")
