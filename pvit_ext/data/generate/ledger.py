"""Every call of a run, in a file that is only appended to: cache, account and point to go on from in one.

One JSON object a line: ``{"call": "start", ...}`` before a call is sent, ``{"call": "end", ...}`` with the raw reply as
soon as it is there, both under the key of the request. A call that has started and not ended was in flight when a run
was killed: it is asked again, and may be paid twice.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

from pvit_ext.data.generate.pipeline import Answer
from pvit_ext.data.generate.reply import Usage, read_body, usage_of
from pvit_ext.files import lock

_HEAD = b'{"call"'
"""What each line begins with."""


@dataclass(frozen=True)
class InFlight:
    """A call that was sent, with no reply recorded.

    Args:
        key: of the request.
        job: whose it is.
        sent: time, as ISO 8601.
        tokens: the most that it may be charged for.
    """

    key: str
    job: str
    sent: str
    tokens: Usage


class Ledger:
    """The calls of a run; used by one process at a time.

    Args:
        path: of the file; made when it is missing.

    Raises:
        ValueError: when another run uses it, or it is another kind of file, which stays what it is.

    Attributes:
        in_flight: calls without a reply, by key.
        used: tokens of all replies.
        calls: how many replies there are.
        damaged: numbers of lines that cannot be read: the last one of a run that was killed while it wrote.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        if not lock(self._file):
            self._file.close()
            raise ValueError(f"{path} is in use by another run; wait for it, or use another ledger")
        self.in_flight: dict[str, InFlight] = {}
        self.used, self.calls = Usage(), 0
        self.damaged: list[int] = []
        self._spans: dict[str, tuple[int, int]] = {}
        self._cut_off = False
        try:
            self._read()
        except ValueError:
            self._file.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def lookup(self, key: str) -> Answer | None:
        """The answer to a request, None if there is none yet."""
        if (span := self._spans.get(key)) is None:
            return None
        start, length = span
        line = json.loads(os.pread(self._file.fileno(), length, start))
        return Answer(line.get("raw", ""), line.get("failure"))

    def start(self, key: str, job: str, tokens: Usage) -> None:
        """Note that a call is about to be sent."""
        call = InFlight(key, job, _now(), tokens)
        self.in_flight[key] = call
        self._append({"call": "start", **asdict(call)})

    def finish(self, key: str, job: str, raw: str) -> None:
        """Keep a reply; it is on the disk when this returns."""
        self._end({"call": "end", "key": key, "job": job, "received": _now(), "raw": raw})

    def fail(self, key: str, job: str, failure: str) -> None:
        """Keep why there will be no reply."""
        self._end({"call": "end", "key": key, "job": job, "received": _now(), "failure": failure})

    def drop(self, key: str, job: str) -> None:
        """Note that a call ended without a reply, so that it is not in flight; it may be made again."""
        self.in_flight.pop(key, None)
        self._append({"call": "dropped", "key": key, "job": job})

    def _end(self, line: dict[str, Any]) -> None:
        start, length = self._append(line)
        os.fsync(self._file.fileno())
        self._note_end(line, start, length)

    def _append(self, line: dict[str, Any]) -> tuple[int, int]:
        text = json.dumps(line).encode() + b"\n"
        start = self._file.seek(0, os.SEEK_END)
        if self._cut_off:  # what a killed run wrote last stays a line of its own
            start += self._file.write(b"\n")
            self._cut_off = False
        self._file.write(text)
        self._file.flush()
        return start, len(text)

    def _note_end(self, line: dict[str, Any], start: int, length: int) -> None:
        key = line["key"]
        self.in_flight.pop(key, None)
        if key in self._spans:
            return
        self._spans[key] = (start, length)
        self.calls += 1
        if "raw" in line:
            usage = _usage(line["raw"])
            self.used = Usage(
                self.used.input_tokens + usage.input_tokens, self.used.output_tokens + usage.output_tokens
            )

    def _read(self) -> None:
        start = 0
        self._file.seek(0)
        raw = b""
        for number, raw in enumerate(self._file, 1):
            if number == 1 and not _begins(raw):
                raise ValueError(f"{self.path} is no ledger of calls; use another")
            try:
                self._take(json.loads(raw), start, len(raw))
            except (ValueError, KeyError, TypeError):
                self.damaged.append(number)
            start += len(raw)
        self._cut_off = bool(raw) and not raw.endswith(b"\n")

    def _take(self, line: dict[str, Any], start: int, length: int) -> None:
        key, kind = line["key"], line["call"]
        if kind == "start":
            if key not in self._spans:
                self.in_flight[key] = InFlight(key, line["job"], line["sent"], Usage(**line["tokens"]))
        elif kind == "end":
            self._note_end(line, start, length)
        elif kind == "dropped":
            self.in_flight.pop(key, None)
        else:
            raise ValueError(f"unknown kind of line {kind!r}")


def _begins(line: bytes) -> bool:
    """Whether a file's first line is a ledger's, or what was left of one when a run was killed."""
    text = line.rstrip(b"\n")
    return bool(text) and text[: len(_HEAD)] == _HEAD[: len(text)]


def _usage(raw: str) -> Usage:
    try:
        return usage_of(read_body(raw))
    except ValueError:
        return Usage()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
