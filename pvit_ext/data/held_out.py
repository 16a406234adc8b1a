"""Photographs that evaluation needs, so that none of them is trained on: known by their number, else by their name.

RefCOCO, RefCOCO+ and RefCOCOg are all of COCO's train2014, so their val and test images lie in train2017 too. It also
holds most of val2014, and Visual Genome and LVIS hold images of all of them. COCO's images are told by the twelve
digits of their names, Visual Genome's by theirs, and by COCO's number where it is known. Any other image that a file of
evaluation data names is told by that name, with or without the folders before it.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pvit_ext.data.convert.annotation import SOURCE_KEY
from pvit_ext.data.convert.fields import take
from pvit_ext.data.convert.formats.refcoco import load_plain_pickle
from pvit_ext.data.convert.json_buffer import JsonBuffer
from pvit_ext.data.convert.notes import BadItem
from pvit_ext.data.convert.peek import Peek
from pvit_ext.data.convert.report import report_of
from pvit_ext.data.image_files import plain_name
from pvit_ext.data.json_records import JsonRecordError, read_json_records
from pvit_ext.data.scan import name_of
from pvit_ext.data.unread import IMAGE_KEYS
from pvit_ext.files import read_lines

COCO_ID = "coco_id"
_COCO = re.compile(r"(?:^|[/_\\])(\d{12})(?:_\d+)?(?:\.\w+)?$")
_VISUAL_GENOME = re.compile(r"(?:^|/)VG_100K(?:_2)?/(\d+)(?:\.\w+)?$")
_NUMBER = re.compile(r"[0-9]{1,11}")
_LISTED = re.compile(r"(\S+)\s+[+-]?[0-9]+")
"""A line of VOC's lists: a name and whether the class is there."""
_COCO_VAL = re.compile(r"(?:^|/)val20(?:14|17)/|(?:^|/)COCO_val2014_")
_FILE = "the file "


@dataclass(frozen=True)
class HeldOut:
    """Photographs to leave out of training.

    Args:
        why: by photograph, what needs it.
        coco_val: leave out too what its own name says is of COCO's val2014 or val2017.
    """

    why: Mapping[str, str] = field(default_factory=dict)
    coco_val: bool = False

    def reason(self, images: Sequence[str], coco_id: int | None = None) -> str | None:
        """Why images must not be trained on, None if they may.

        Args:
            images: their names.
            coco_id: COCO's number of the first, where its name does not say it.
        """
        if found := self.met(images, coco_id):
            return f"{found[0]} is {found[1]}, which {self.why[found[1]]} needs"
        of_val = (name for name in images if self.coco_val and _COCO_VAL.search(plain_name(name)))
        return next((f"{name} is of COCO's val by its name" for name in of_val), None)

    def met(self, images: Sequence[str], coco_id: int | None = None) -> tuple[str, str] | None:
        """The first of images that is one of :attr:`why`, and which, None if none is; see :meth:`reason`."""
        for name in images:
            for photograph in photographs(name, coco_id):
                if photograph in self.why:
                    return name, photograph
            if self._by_name and (file := self._file(name)):
                return name, file
        return None

    def reason_for(self, record: Mapping[str, Any]) -> str | None:
        """:meth:`reason` for a record of a training file."""
        return self.reason(*_images_of(record))

    def met_by(self, record: Mapping[str, Any]) -> tuple[str, str] | None:
        """:meth:`met` for a record of a training file."""
        return self.met(*_images_of(record))

    @cached_property
    def _by_name(self) -> dict[str, str]:
        """Those of :attr:`why` that are known by name alone: by all of it, and by its ends with a slash before."""
        found: dict[str, str] = {}
        for file in (one for one in self.why if one.startswith(_FILE)):
            full, *ends = _ends(file.removeprefix(_FILE))
            found[full] = file
            found.update((f"/{end}", file) for end in ends)
        return found

    def _file(self, name: str) -> str | None:
        """The one of :attr:`why` that a name means: either may have folders before what they share."""
        ends = _ends(name)
        plain = [posixpath.splitext(end)[0] for end in ends]  # lists of ids name no suffix
        return next((self._by_name[one] for one in (*ends, f"/{ends[0]}", *plain) if one in self._by_name), None)


def _images_of(record: Mapping[str, Any]) -> tuple[Sequence[str], int | None]:
    images = record.get("image") or []
    source = record.get(SOURCE_KEY)
    known = source.get(COCO_ID) if isinstance(source, Mapping) else None
    return [images] if isinstance(images, str) else images, known if isinstance(known, int) else None


def _ends(name: str) -> list[str]:
    """A name, and the same without its first folder, its first two, and so on."""
    parts = plain_name(name).lstrip("/").split("/")
    return ["/".join(parts[number:]) for number in range(len(parts))]


def photographs(name: str, coco_id: int | None = None) -> list[str]:
    """What photograph a name stands for, ``coco 391895`` or ``visual genome 2331``; none where it says nothing."""
    found = [f"coco {coco_id}"] if coco_id is not None else []
    if match := _COCO.search(name):
        found.append(f"coco {int(match[1])}")
    if match := _VISUAL_GENOME.search(plain_name(name)):
        found.append(f"visual genome {int(match[1])}")
    return found


def read_held_out(paths: Iterable[Path]) -> dict[str, str]:
    """The photographs that files of evaluation data name.

    Args:
        paths: of RefCOCO's ``refs(...).p`` (its val and test parts count), of COCO's JSON, of records in JSON or JSON
            Lines that have an image's name, or of text with a name a line.

    Returns:
        by photograph, or the name of one whose number is not known, which file needs it.

    Raises:
        ValueError: for a file that names no image.
    """
    found: dict[str, str] = {}
    for path in paths:
        if not path.is_file():
            raise ValueError(f"--held-out {path}: there is no such file")
        names = (name for name in _names(path) if name)
        mine = {one: path.name for name in names for one in _meant(name)}
        if not mine:
            raise ValueError(
                f"--held-out {path} names no image: give refs(...).p, COCO's JSON, records with an image, or a text "
                "file of names such as 000000391895.jpg"
            )
        found = mine | found
    return found


def _meant(name: str) -> list[str]:
    """What a name in a file of evaluation data may stand for; one of digits alone does not say of which data set."""
    if _NUMBER.fullmatch(name):
        return [f"coco {int(name)}", f"visual genome {int(name)}", f"{_FILE}{name}"]
    return photographs(name) or [f"{_FILE}{name}"]


def reported(files: Iterable[Path]) -> tuple[dict[str, str], list[str]]:
    """Photographs of val and test that the reports beside training files name, and a warning for each that is damaged.

    Args:
        files: as ``data convert``, or a command that read its records, wrote them; without a report they name nothing.
    """
    why: dict[str, str] = {}
    warnings: list[str] = []
    for path in (report_of(file) for file in files):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["held_out"]
            why = {str(name): str(part) for name, part in found.items()} | why
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            warnings.append(
                f"WARNING: {path} does not say which photographs are of val or test, so none is left out for it: it is "
                "damaged, or of an earlier version; make the file again, or remove the report"
            )
    return why, warnings


def remarks_of(named: Iterable[str], met: Iterable[str]) -> list[str]:
    """What to say of ``--held-out``: that some of what it names, or all, met no image.

    Args:
        named: photographs, by :func:`read_held_out`.
        met: those of them that a record has.
    """
    names = dict.fromkeys(map(_one_of, named))
    seen = set(map(_one_of, met))
    missed = [one for one in names if one not in seen]
    if not missed:
        return []
    shown = ", ".join(missed[:3]) + (", ..." if len(missed) > 3 else "")
    if len(missed) == len(names):
        return [
            f"WARNING: --held-out: none of {len(names):,} photographs that it names met an image: {shown}; give the "
            "names as the data has them, or nothing is left out"
        ]
    return [
        f"--held-out: {len(names) - len(missed):,} of {len(names):,} photographs that it names met an image; not met: "
        f"{shown}, which other data may have"
    ]


def _one_of(photograph: str) -> str:
    """One text for all that a name may stand for."""
    name = photograph.removeprefix("coco ").removeprefix("visual genome ").removeprefix(_FILE)
    listed = _LISTED.fullmatch(name)
    plain = listed[1] if listed else name
    return plain.lstrip("0") or "0" if plain.isdigit() else plain


def _names(path: Path) -> Iterator[str]:
    if path.suffix == ".p":
        held_out = (ref for ref in load_plain_pickle(path) if ref.get("split") != "train")
        yield from (f"{take(ref, 'image_id', int):012}.jpg" for ref in held_out)
    elif path.suffix == ".txt":
        for line in read_lines(path):
            yield line
            if listed := _LISTED.fullmatch(line):
                yield listed[1]
    elif Peek(path).first("images"):  # of objects; a record may have a list of names
        yield from _of_coco(path)
    else:
        for found in read_json_records(path):
            if isinstance(found.value, JsonRecordError):
                raise ValueError(f"{name_of(path.name, found.line, found.value)}: {found.value}")
            yield from _of_record(found.value)


def _of_record(record: Any) -> Iterator[str]:
    given = (record[key] for key in IMAGE_KEYS if record.get(key) is not None) if isinstance(record, dict) else ()
    value = next(iter(given), None)
    for name in value if isinstance(value, list) else [value]:
        if isinstance(name, (str, int)) and not isinstance(name, bool):
            yield name if isinstance(name, str) else f"{name:012}.jpg"


def _of_coco(path: Path) -> Iterator[str]:
    try:
        buffer = JsonBuffer(path)
        section = buffer.sections().get("images")
        for span in zip(section.starts, section.ends, strict=True) if section else ():
            item = buffer.load(*span)
            yield str(item.get("file_name") or item.get("coco_url") or "")
    except BadItem as error:
        raise ValueError(f"{path}: {error.location + ': ' if error.location else ''}{error}") from error
