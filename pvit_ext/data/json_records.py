"""Read a JSON array or JSON Lines record by record, each with its line and its position in the file."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any, BinaryIO, NamedTuple

from pvit_ext.files import encoding_of

_BLANKS = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_CHUNK = 1 << 20
_SURROGATE = re.compile("[\ud800-\udfff]")


class JsonRecordError(ValueError):
    """A record that is not valid JSON, or ambiguous."""


class JsonFileError(JsonRecordError):
    """The same, and no record behind it can be found."""


class Found(NamedTuple):
    """A record of a file.

    Args:
        line: counted from 1.
        start, end: bytes of :func:`open_utf8`'s stream.
        value: of the JSON; a JsonRecordError where it could not be read.
    """

    line: int
    start: int
    end: int
    value: Any


def open_utf8(path: str | PathLike[str]) -> BinaryIO:
    """The file's bytes as UTF-8: the file itself, or a copy in memory of one in UTF-16 or UTF-32.

    Raises:
        JsonFileError: for bytes that are not in the encoding that their byte-order mark names.
        IsADirectoryError: for a folder.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(f"{os.fspath(path)} is a folder where a file is wanted: JSON Lines or a JSON array")
    stream: BinaryIO = open(path, "rb")  # noqa: SIM115  the caller closes it
    encoding = encoding_of(stream.read(4))
    stream.seek(0)
    if encoding == "utf-8":
        return stream
    with stream:
        try:
            return io.BytesIO(stream.read().decode(encoding).removeprefix("\ufeff").encode())
        except UnicodeError as error:
            raise JsonFileError(f"the file is not {encoding.upper()}, as its first bytes say: {error}") from error


def read_json_records(path: str | PathLike[str]) -> Iterator[Found]:
    """Each record of a file.

    JSON Lines goes on after a bad line. A syntax error in an array ends it with a JsonFileError.
    A key that is given twice, NaN and Infinity are errors: readers of JSON disagree on what they mean.

    Args:
        path: UTF-8, with or without a byte-order mark, or UTF-16; the first character tells an array from lines.
    """
    try:
        stream = open_utf8(path)
    except JsonFileError as error:
        yield Found(1, 0, 0, error)
        return
    with stream:
        start = 3 if stream.read(3) == codecs.BOM_UTF8 else 0
        stream.seek(start)
        if any(line.strip()[:1] == b"[" for line in _first(stream)):
            stream.seek(start)
            yield from _Array(stream, start).records()
            return
        stream.seek(start)
        for number, raw in enumerate(stream, 1):  # not splitlines: U+2028 may stand in a JSON string
            if raw.strip():
                yield Found(number, start, start + len(raw), parse_line(raw))
            start += len(raw)


def _first(stream: BinaryIO) -> Iterator[bytes]:
    """The first line that is not blank, or what of it tells what it is."""
    while line := stream.readline(_CHUNK):
        if line.strip():
            yield line
            return


def parse_line(raw: bytes) -> Any:
    """The value of one record; a JsonRecordError where it is none."""
    try:
        text = raw.decode().strip(" \t\r\n")
    except UnicodeDecodeError as error:
        return JsonRecordError(f"the line is not UTF-8: {error.reason} at its byte {error.start}")
    value, end = _decode(text, 0)
    if end < len(text) and not isinstance(value, JsonRecordError):
        return JsonRecordError(f"more text after the record near {_near(text, end)}; one record a line")
    return value


class _Array:
    """A JSON array, of which a window is in memory: ``text``, read up to ``position``."""

    def __init__(self, stream: BinaryIO, offset: int) -> None:
        self.stream, self.offset, self.line = stream, offset, 1
        self.text, self.position, self.ended = "", 0, False
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def records(self) -> Iterator[Found]:
        """Each record; the last may be a JsonFileError."""
        try:
            yield from self._records()
        except UnicodeDecodeError as error:
            line = self.line + self.text.count("\n", self.position) + error.object.count(b"\n", 0, error.start)
            yield Found(line, 0, 0, JsonFileError(f"the file is not UTF-8: {error.reason} at byte {error.start}"))

    def _records(self) -> Iterator[Found]:
        self._next()
        self._advance(self.position + 1)  # the bracket
        mark = "]" if self._next() == "]" else ","
        while mark == ",":
            line, start = self.line, self.offset
            value, end = self._value()
            self._advance(end)
            yield Found(line, start, self.offset, value)
            if isinstance(value, JsonFileError):
                return
            between = _COMMA.match(self.text, end)
            if between and between.end() < len(self.text):
                self._advance(between.end())
                continue
            mark = self._next()
            if mark == ",":
                self._advance(self.position + 1)
                self._next()
        near = _near(self.text, self.position)
        if mark != "]":
            yield Found(self.line, 0, 0, JsonFileError(f"the array goes on with neither ',' nor ']' near {near}"))
            return
        self._advance(self.position + 1)
        if self._next():
            near = _near(self.text, self.position)
            yield Found(self.line, 0, 0, JsonFileError(f"more text after the array near {near}"))

    def _value(self) -> tuple[Any, int]:
        while True:
            value, end = _decode(self.text, self.position)
            if (end < len(self.text) and not isinstance(value, JsonFileError)) or not self._more():
                return value, end

    def _next(self) -> str:
        """The next character that is no blank; empty at the end."""
        while True:
            blanks = _BLANKS.match(self.text, self.position)
            self._advance(blanks.end() if blanks else self.position)
            if self.position < len(self.text):
                return self.text[self.position]
            if not self._more():
                return ""

    def _advance(self, position: int) -> None:
        passed = self.text[self.position : position]
        self.offset, self.line = self.offset + len(passed.encode()), self.line + passed.count("\n")
        self.position = position

    def _more(self) -> bool:
        """Read on: as much again as is unread, so that a record of any length is tried a few times only."""
        if self.ended:
            return False
        raw = self.stream.read(max(_CHUNK, len(self.text) - self.position))
        self.ended = not raw
        self.text, self.position = self.text[self.position :] + self.decoder.decode(raw, final=self.ended), 0
        return True


class _Noted(threading.local):
    """Problems of the record that is being decoded: raised only at its end, where the next one starts."""

    def __init__(self) -> None:
        self.problems: list[str] = []


_noted = _Noted()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        _noted.problems.append(f"key {next(key for key in keys if keys.count(key) > 1)[:80]!r} is given twice")
    return values


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=lambda name: _noted.problems.append(f"{name} is not valid JSON")
)


def _decode(text: str, position: int) -> tuple[Any, int]:
    """The value at a position and its end; a JsonRecordError instead, a JsonFileError where it has no end."""
    _noted.problems.clear()
    try:
        value, end = _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        return JsonFileError(f"not valid JSON: {error.msg} near {_near(text, error.pos)}"), position
    except (ValueError, RecursionError) as error:  # integers of thousands of digits, thousands of brackets
        return JsonFileError(f"not usable JSON: {error}"), position
    return (JsonRecordError(_noted.problems[0]) if _noted.problems else value), end


def has_half_surrogate(text: str) -> bool:
    """Whether a text holds half of a surrogate pair, which no tokenizer reads and UTF-8 cannot hold."""
    return not text.isascii() and _SURROGATE.search(text) is not None


def json_line(value: Mapping[str, Any]) -> bytes:
    """An object as a line of JSON Lines in UTF-8."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if has_half_surrogate(text):
        text = json.dumps(value, separators=(",", ":"))
    return text.encode() + b"\n"


def _near(text: str, position: int) -> str:
    return repr(text[max(position - 20, 0) : position + 20])
