"""A training file in parts, such that no photograph is in two of them, nor an augmented copy of it."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from pvit_ext.data.convert.report import Report
from pvit_ext.data.held_out import reported
from pvit_ext.data.image_files import plain_name, short
from pvit_ext.data.json_records import Found, JsonRecordError, json_line, read_json_records
from pvit_ext.data.scan import name_of
from pvit_ext.files import atomic_write

PHOTOGRAPH = r"(.+?)(?:_(?:jpe?g|png|bmp|webp))?\.rf\.\w+\.\w+$"
"""Roboflow names augmented copies ``NAME_jpg.rf.HASH.jpg``: the group is the photograph they were made of."""


def parse_parts(text: str) -> dict[str, float]:
    """The parts of ``train=0.9,val=0.1``.

    Raises:
        ValueError: for anything that is no list of names with positive fractions that add up to 1.
    """
    fractions: dict[str, float] = {}
    for word in text.split(","):
        name, _, value = word.strip().partition("=")
        if not re.fullmatch(r"\w[\w-]*", name) or name in fractions or not re.fullmatch(r"0?\.\d+", value.strip()):
            raise ValueError(f"--parts takes NAME=FRACTION,NAME=FRACTION with fractions between 0 and 1, got {text!r}")
        fractions[name] = float(value)
    if abs(sum(fractions.values()) - 1) > 1e-6 or min(fractions.values()) <= 0:
        raise ValueError(f"the fractions of --parts {text!r} add up to {sum(fractions.values()):g}, not to 1")
    return fractions


def split_file(
    source: Path, out: Path, fractions: Mapping[str, float], seed: int = 0, photograph: str = PHOTOGRAPH
) -> dict[str, tuple[int, int]]:
    """Write ``NAME.jsonl`` for each part into a folder, each with its report; all of them appear, or none.

    Records that share an image, or images of one photograph, stay together; names that the image folder takes for one
    file are one image. Which part a photograph goes to depends on the seed, the names of all images and how many
    records each has, not on the order of records with an image each: a file that grew may be dealt otherwise.

    Args:
        source: a training file.
        out: folder for the parts.
        fractions: of the records, by name; met up to the size of one group.
        seed: chooses.
        photograph: pattern of image names; its first group names the photograph. Another name stands for itself.

    Returns:
        (records, photographs) of each part.

    Raises:
        ValueError: for too few photographs, a record that is no JSON object with images, or a pattern without a group.
        FileExistsError: when a part is there already.
    """
    try:
        pattern = re.compile(photograph)
    except re.error as error:
        raise ValueError(f"the pattern {photograph!r} is no regular expression: {error}") from error
    if pattern.groups < 1:
        raise ValueError(f"the pattern {photograph!r} has no group (...) that names the photograph")
    targets = {name: out / f"{name}.jsonl" for name in fractions}
    for target in targets.values():
        if target.exists():
            raise FileExistsError(f"{target} is there already: remove it, or name another folder")
    groups = _joined([_photographs(found, pattern, source) for found in read_json_records(source)])
    sizes: dict[Hashable, int] = defaultdict(int)
    for group in groups:
        sizes[group] += 1
    if len(sizes) < len(fractions):
        raise ValueError(f"{source} has records of {len(sizes)} photograph(s), too few for {len(fractions)} parts")
    part_of = _deal(sizes, fractions, seed)
    counts = dict.fromkeys(fractions, 0)
    with ExitStack() as stack:
        out.mkdir(parents=True, exist_ok=True)
        files = {
            name: stack.enter_context(stack.enter_context(atomic_write(target)).open("wb"))
            for name, target in targets.items()
        }
        for group, found in zip(groups, read_json_records(source), strict=True):
            counts[part_of[group]] += 1
            files[part_of[group]].write(json_line(found.value))
        found_sizes = {name: (counts[name], sum(part == name for part in part_of.values())) for name in fractions}
        _write_reports(source, {targets[name]: sizes for name, sizes in found_sizes.items()})
    return found_sizes


def _write_reports(source: Path, parts: Mapping[Path, tuple[int, int]]) -> None:
    """What ``data mix`` must know of the records, which the report of their source says."""
    held_out, warnings = reported([source])
    for target, (records, photographs) in parts.items():
        report = Report("split", source, remarks=warnings, held_out=held_out)
        report.counts.update(records=records, photographs=photographs)
        report.write(target)


def _photographs(found: Found, pattern: re.Pattern[str], source: Path) -> list[Hashable]:
    """Names of the photographs of a record; one without images stands for itself."""
    record, location = found.value, name_of(source.name, found.line, found.value)
    if isinstance(record, JsonRecordError):
        raise ValueError(f"{location}: {record}")
    if not isinstance(record, dict):
        raise ValueError(f"{location}: a record is a JSON object, got {short(record)}")
    images = record.get("image") or []
    names = images if isinstance(images, list) else [images]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{location}: image is a text, or a list of texts, got {short(images)}")
    found_names = [_photograph(one, pattern) for name in names for one in dict.fromkeys((name, plain_name(name)))]
    return list(dict.fromkeys(found_names)) or [found.line]


def _photograph(name: str, pattern: re.Pattern[str]) -> str:
    return match[1] if (match := pattern.match(name)) else name


def _joined(keys: Sequence[list[Hashable]]) -> list[Hashable]:
    """The group of each record: the first of all photographs that records join with its own."""
    above: dict[Hashable, Hashable] = {}

    def top(key: Hashable) -> Hashable:
        while above.setdefault(key, key) != key:
            above[key] = above[above[key]]
            key = above[key]
        return key

    for own in keys:
        for key in own[1:]:
            above[top(key)] = top(own[0])
    return [top(own[0]) for own in keys]


def _deal(sizes: Mapping[Hashable, int], fractions: Mapping[str, float], seed: int) -> dict[Hashable, str]:
    """Groups to parts, in an order drawn by the seed; each to the part that lacks most of its fraction."""
    order = sorted(sizes, key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
    total, given = sum(sizes.values()), dict.fromkeys(fractions, 0)
    part_of: dict[Hashable, str] = {}
    for group in order:
        part = max(fractions, key=lambda name: (fractions[name] * total - given[name]) / fractions[name])
        part_of[group] = part
        given[part] += sizes[group]
    return part_of
