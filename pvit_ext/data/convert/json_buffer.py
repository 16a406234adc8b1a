"""Positions of values in a JSON file of any size, found without decoding them.

A regular expression skips an object at the speed of C; a value is decoded when it is needed, in whichever process.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pvit_ext.data.convert.notes import BadItem
from pvit_ext.data.json_records import JsonFileError, open_utf8

_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_FLAT = rb'[^{}"]*'


def _object(depth: int) -> bytes:
    inner = _STRING if not depth else _STRING + b"|" + _object(depth - 1)
    return rb"\{" + _FLAT + b"(?:(?:" + inner + b")" + _FLAT + rb")*\}"


_OBJECT = re.compile(_object(4), re.DOTALL)
_LIST_OF_PLAIN = re.compile(rb'\[[^{}\[\]"]*\]')
_TEXT = re.compile(_STRING, re.DOTALL)
_PLAIN = re.compile(rb"[-+.\w]+")
_BLANKS = re.compile(rb"[ \t\r\n]*")
_ELEMENT = re.compile(rb"[ \t\r\n]*(" + _object(4) + rb")[ \t\r\n]*([,\]])", re.DOTALL)
_MARKS = re.compile(rb'["{}\[\]]')
_RELEASED = 1 << 26
_UTF8_MARK = b"\xef\xbb\xbf"


@dataclass
class Section:
    """A value in a file.

    Args:
        start, end: its bytes.
        starts, ends: of the elements, where it is a list.
    """

    start: int
    end: int
    starts: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))


class JsonBuffer:
    """A JSON file, mapped while it is scanned and read in pieces afterwards; picklable.

    Args:
        path: UTF-8 or UTF-16, with or without byte-order mark.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes: bytes | None = None
        self._stream: BinaryIO | None = None
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_bytes": None, "_stream": None, "_process": 0}

    def read(self, start: int, end: int) -> bytes:
        """Bytes of the file as UTF-8."""
        self._open()
        if self._bytes is not None:
            return self._bytes[start:end]
        assert self._stream is not None
        return os.pread(self._stream.fileno(), end - start, start)

    def load(self, start: int, end: int) -> Any:
        """The value at these bytes.

        Raises:
            BadItem: naming the line, if it is no JSON.
        """
        try:
            return json.loads(self.read(start, end))
        except (ValueError, RecursionError) as error:
            raise BadItem(f"not valid JSON: {error}", f"{self.path.name} line {self.line(start)}") from error

    def line(self, position: int) -> int:
        """The line of a byte, counted from 1."""
        self._open()
        if self._bytes is not None:
            return self._bytes.count(b"\n", 0, position) + 1
        pieces = range(0, position, _RELEASED)
        return sum(self.read(start, min(start + _RELEASED, position)).count(b"\n") for start in pieces) + 1

    def kind(self) -> str:
        """``{``, ``[`` or another first character; empty for an empty file."""
        head = self.read(0, 1 << 16).removeprefix(_UTF8_MARK).lstrip()
        return head[:1].decode("ascii", "replace")

    def sections(self) -> dict[str, Section]:
        """The values of the object that the file is, by their keys.

        Raises:
            BadItem: naming the line where it breaks off or is no JSON, or gives a key another value.
        """
        found: dict[str, Section] = {}
        for key, value in self.members():
            first = found.setdefault(key, value)
            if first is not value and self.read(first.start, first.end) != self.read(value.start, value.end):
                problem = f"the key {key!r} stands twice, with other content; join the two, or write two files"
                raise BadItem(problem, f"{self.path.name} line {self.line(value.start)}")
        return found

    def members(self) -> Iterator[tuple[str, Section]]:
        """The keys and values of the object that the file is, one after the other: there may be a million.

        Raises:
            BadItem: naming the line where it breaks off or is no JSON.
        """
        with self._scanned() as data:
            position = _skip_blanks(data, 3 if data[:3] == _UTF8_MARK else 0)
            if data[position : position + 1] != b"{":
                raise self._broken(position, "a JSON object that begins with {")
            mark, position, released = b",", position + 1, 0
            first = _skip_blanks(data, position)
            if data[first : first + 1] == b"}":
                return
            while mark == b",":
                position = _skip_blanks(data, position)
                if not (key := _TEXT.match(data, position)):
                    raise self._broken(position, "a key")
                position = _skip_blanks(data, key.end())
                if data[position : position + 1] != b":":
                    raise self._broken(position, "':'")
                section = self._value(data, _skip_blanks(data, position + 1))
                yield json.loads(key[0]), section
                position = _skip_blanks(data, section.end)
                mark, position = bytes(data[position : position + 1]), position + 1
                if position - released > _RELEASED:
                    _release(data, position)
                    released = position
            if mark != b"}":
                raise self._broken(position - 1, "',' or '}'")

    def items(self) -> Section:
        """The elements of the array that the file is, or its lines.

        Raises:
            BadItem: naming the line where an array breaks off; for an empty file.
        """
        with self._scanned() as data:
            start = 3 if data[:3] == _UTF8_MARK else 0
            position = _skip_blanks(data, start)
            if data[position : position + 1] == b"[":
                return self._list(data, position)
            if position == len(data):
                raise BadItem("the file is empty; is it damaged? fetch it again", self.path.name)
            section = Section(start, len(data))
            while start < len(data):
                end = data.find(b"\n", start)
                end = len(data) if end < 0 else end
                if _skip_blanks(data, start) < end:
                    section.starts.append(start)
                    section.ends.append(end)
                start = end + 1
            return section

    def numbered(self, section: Section) -> Iterator[tuple[int, int, int]]:
        """The line of each element, counted from 1, its start and its end."""
        line, counted = 1, 0
        for start, end in zip(section.starts, section.ends, strict=True):
            line += self.read(counted, start).count(b"\n")
            counted = start
            yield line, start, end

    def _value(self, data: Any, position: int) -> Section:
        first = data[position : position + 1]
        if first == b"[":
            flat = _LIST_OF_PLAIN.match(data, position)
            return Section(position, flat.end()) if flat else self._list(data, position)
        for pattern in (_OBJECT, _TEXT, _PLAIN):
            if match := pattern.match(data, position):
                return Section(position, match.end())
        if first == b"{":
            return Section(position, self._deep(data, position))
        raise self._broken(position, "a value")

    def _list(self, data: Any, position: int) -> Section:
        section, released = Section(position, position), position
        mark, position = b",", _skip_blanks(data, position + 1)
        if data[position : position + 1] == b"]":
            section.end = position + 1
            return section
        while mark == b",":
            if match := _ELEMENT.match(data, position):
                (start, end), mark, position = match.span(1), match[2], match.end()
            else:
                element = self._value(data, _skip_blanks(data, position))
                start, end = element.start, element.end
                position = _skip_blanks(data, end)
                mark, position = bytes(data[position : position + 1]), position + 1
            section.starts.append(start)
            section.ends.append(end)
            if position - released > _RELEASED:
                _release(data, position)
                released = position
        if mark != b"]":
            raise self._broken(position - 1, "',' or ']'")
        section.end = position
        return section

    def _deep(self, data: Any, position: int) -> int:
        """The end of an object nested deeper than the expression goes."""
        depth, start = 0, position
        while match := _MARKS.search(data, position):
            if match[0] == b'"':
                if not (text := _TEXT.match(data, match.start())):
                    break
                position = text.end()
                continue
            depth += 1 if match[0] in b"{[" else -1
            position = match.end()
            if not depth:
                return position
        raise self._broken(start, "an object that ends")

    def _broken(self, position: int, expected: str) -> BadItem:
        near = self.read(max(position - 20, 0), position + 20).decode("utf-8", "replace")
        location = f"{self.path.name} line {self.line(position)}"
        return BadItem(f"expected {expected} near {near!r}; is the file damaged or cut off? fetch it again", location)

    def _open(self) -> None:
        if self._bytes is not None or (self._stream is not None and self._process == os.getpid()):
            return
        try:
            stream = open_utf8(self.path)
        except JsonFileError as error:
            raise BadItem(str(error), self.path.name) from error
        except IsADirectoryError as error:
            inside = [one.name for one in sorted(self.path.iterdir()) if one.suffix in (".json", ".jsonl")]
            listed = ", ".join(inside[:5]) + (", ..." if len(inside) > 5 else "")
            advice = f"give one of its files: {listed}" if inside else "there is none in it"
            raise IsADirectoryError(f"{self.path} is a folder where a JSON file is wanted; {advice}") from error
        if isinstance(stream, io.BytesIO):
            self._bytes = stream.getvalue()
        else:
            self._stream, self._process = stream, os.getpid()

    @contextmanager
    def _scanned(self) -> Iterator[Any]:
        """The file for expressions to run over: mapped, or its bytes."""
        self._open()
        if self._stream is None or not self.path.stat().st_size:
            yield self._bytes or b""
            return
        with mmap.mmap(self._stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _skip_blanks(data: Any, position: int) -> int:
    blanks = _BLANKS.match(data, position)
    return blanks.end() if blanks else position


def _release(data: Any, position: int) -> None:
    """Give the pages before a position back, so that a large file does not count as the memory of this process."""
    if isinstance(data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        data.madvise(mmap.MADV_DONTNEED, 0, position // mmap.PAGESIZE * mmap.PAGESIZE)
