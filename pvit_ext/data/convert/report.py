"""What a conversion wrote, and what it left out and why."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pvit_ext.data.convert.base import SourceError
from pvit_ext.data.convert.notes import CLIPPED, Drop, Notes, Reason
from pvit_ext.files import atomic_write

_SHOWN = 20
_MANY = 3
"""So many boxes must be clipped before it is taken for a sign."""


def report_of(out: Path) -> Path:
    """Where the report of a file of records lies."""
    return out.with_name(out.name + ".report.json")


class TooManyBad(SourceError):
    """More bad items than allowed; with a higher limit, what is done still holds."""


@dataclass
class Report:
    """Adds up the notes of a conversion.

    Args:
        format: that the source was read as.
        source: file or folder.
        max_bad_records: how many bad items are survived.
        counts: of what was kept.
        dropped: by name of the reason.
        shown: examples of what was dropped, by name of the reason.
        remarks: sentences for the user.
        has: what the source has.
        held_out: photographs that the source says are of val or test, with the part.
        met: photographs that evaluation needs, which an image is.
        restored: of ``dropped``, what an interrupted run had noted.
    """

    format: str
    source: Path
    max_bad_records: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    shown: dict[str, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    has: Counter[str] = field(default_factory=Counter)
    held_out: dict[str, str] = field(default_factory=dict)
    met: set[str] = field(default_factory=set)
    restored: Counter[str] = field(default_factory=Counter)

    def add(self, notes: Notes) -> None:
        """Add what was noted while a part was read.

        Raises:
            TooManyBad: see :meth:`check_limit`.
        """
        self.counts.update(notes.counts)
        self.has.update(notes.has)
        self.met |= notes.met
        for drop in notes.drops:
            self.dropped[drop.reason.name.lower()] += drop.count
            shown = self.shown.setdefault(drop.reason.name.lower(), [])
            if len(shown) < _SHOWN:
                shown.append(_line(drop))
        self.check_limit()

    def check_limit(self) -> None:
        """Refuse to go on.

        Raises:
            TooManyBad: when there are more bad items than allowed; lists them.
        """
        bad = self.bad
        if bad > self.max_bad_records:
            lines = "\n".join(self.shown["bad"])
            raise TooManyBad(
                f"{bad} bad items in {self.source}, --max_bad_records allows {self.max_bad_records}; nothing was "
                f"written:\n{lines}\nCorrect them, or allow more"
            )

    @property
    def bad(self) -> int:
        """How many bad items there were."""
        return self.dropped["bad"]

    def check(self) -> None:
        """Refuse a conversion without a record, and remark on one whose boxes seem to be misread.

        Raises:
            SourceError: saying what became of everything.
        """
        if not self.counts["records"]:
            raise SourceError(f"{self.source} gives no record as {self.format}:\n{self}\nThe source has {self.holds}")
        clipped = self.counts[CLIPPED]
        total = max(self.has["objects"], self.counts["regions"]) + self.dropped["held_out"]  # all that were read
        if clipped >= _MANY and 2 * clipped > total:
            self.remarks.append(
                f"most boxes ({clipped:,}, of {total:,} objects) reach beyond their image and were clipped to it: does "
                f"{self.source.name} give corners where {self.format} has width and height, or pixels of images of "
                "another size?"
            )

    @property
    def holds(self) -> str:
        """What the source has, for a message."""
        return ", ".join(f"{number:,} {what}" for what, number in self.has.items() if number) or "nothing"

    def state(self) -> dict[str, Any]:
        """All of it, for a file."""
        return {
            "format": self.format,
            "source": str(self.source),
            "counts": dict(self.counts),
            "dropped": dict(self.dropped),
            "examples": self.shown,
            "remarks": self.remarks,
            "source_has": dict(self.has),
            "held_out": self.held_out,
            "held_out_met": sorted(self.met),
        }

    def write(self, out: Path) -> None:
        """Write all of it beside a file of records, see :func:`report_of`."""
        text = json.dumps(self.state(), indent=1, ensure_ascii=False) + "\n"
        with atomic_write(report_of(out)) as temporary:
            temporary.write_bytes(text.encode("utf-8", "backslashreplace"))

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what an interrupted conversion had noted."""
        self.counts, self.dropped = Counter(state["counts"]), Counter(state["dropped"])
        self.shown, self.remarks, self.has = state["examples"], state["remarks"], Counter(state["source_has"])
        self.met = set(state.get("held_out_met", ()))
        self.restored = Counter(self.dropped)

    def remarks_of_restored(self) -> list[str]:
        """That images were left out by an interrupted run, which may be there by now."""
        names = (reason.name.lower() for reason in (Reason.NO_IMAGE, Reason.BROKEN_IMAGE, Reason.SIZE_DIFFERS))
        if not (number := sum(self.restored[name] for name in names)):
            return []
        return [
            f"{number:,} objects were left out for their image by the run that was interrupted, and not looked at "
            "again; if images were added or changed since, run this again: it begins anew"
        ]

    def __str__(self) -> str:
        lines = [f"{number:>9,}  {what}" for what, number in self.counts.items()]
        for name, number in self.dropped.items():
            lines.append(f"{number:>9,}  dropped: {Reason[name.upper()].value}")
            lines += [f"           {example}" for example in self.shown.get(name, [])[:3]]
        return "\n".join([*lines, *self.remarks])


def _line(drop: Drop) -> str:
    return f"{drop.location}: {drop.detail}" if drop.detail else drop.location
