"""Read a JSON array or JSON Lines record by record, each with its line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

_ARRAY = re.compile(r"[ \t\n\r]*\[[ \t\n\r]*(\]?)[ \t\n\r]*")
_BETWEEN = re.compile(r"[ \t\n\r]*([,\]]?)[ \t\n\r]*")


class JsonRecordError(ValueError):
    """A record that is not valid JSON, or ambiguous."""


class JsonFileError(JsonRecordError):
    """The same, and no record behind it can be found."""


def read_json_records(path: str | PathLike[str]) -> Iterator[tuple[int, Any]]:
    """(line, value) of each record; the value is a JsonRecordError where it could not be read.

    JSON Lines goes on after a bad line. A syntax error in an array ends it with a JsonFileError.
    A key that is given twice, NaN and Infinity are errors: readers of JSON disagree on what they mean.

    Args:
        path: UTF-8, with or without a byte-order mark; the first character tells an array from lines.
    """
    data = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
    if not re.match(rb"\s*\[", data):
        # not splitlines: U+2028 may stand in a JSON string
        yield from ((number, _line(line)) for number, line in enumerate(data.split(b"\n"), 1) if line.strip())
        return
    try:
        yield from _array(data.decode())
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        yield line, JsonFileError(f"the file is not UTF-8: {error.reason} at byte {error.start}")


def _line(raw: bytes) -> Any:
    try:
        text = raw.decode().strip(" \t\r")
    except UnicodeDecodeError as error:
        return JsonRecordError(f"the line is not UTF-8: {error.reason} at its byte {error.start}")
    value, end = _decode(text, 0)
    if end < len(text) and not isinstance(value, JsonRecordError):
        return JsonRecordError(f"more text after the record near {_near(text, end)}; one record a line")
    return value


def _array(text: str) -> Iterator[tuple[int, Any]]:
    line, counted = 1, 0
    between: Any = _ARRAY.match(text)  # matches always, as _BETWEEN does
    mark = between[1] or ","
    while mark == ",":
        position = between.end()
        line, counted = line + text.count("\n", counted, position), position
        value, end = _decode(text, position)
        yield line, value
        if isinstance(value, JsonFileError):
            return
        between = _BETWEEN.match(text, end)
        mark = between[1]
    if not mark:
        near = _near(text, between.end())
        yield line, JsonFileError(f"the array goes on with neither ',' nor ']' near {near}")
    elif between.end() < len(text):
        yield line, JsonFileError(f"more text after the array near {_near(text, between.end())}")


def _decode(text: str, position: int) -> tuple[Any, int]:
    """The value at a position and its end; a JsonRecordError instead, a JsonFileError where it has no end."""
    problems: list[str] = []  # raised only at the end, for the next record starts there

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            keys = [key for key, _ in pairs]
            problems.append(f"key {next(key for key in keys if keys.count(key) > 1)[:80]!r} is given twice")
        return values

    decoder = json.JSONDecoder(
        object_pairs_hook=unique, parse_constant=lambda name: problems.append(f"{name} is not valid JSON")
    )
    try:
        value, end = decoder.raw_decode(text, position)
    except json.JSONDecodeError as error:
        return JsonFileError(f"not valid JSON: {error.msg} near {_near(text, error.pos)}"), position
    except (ValueError, RecursionError) as error:  # integers of thousands of digits, thousands of brackets
        return JsonFileError(f"not usable JSON: {error}"), position
    return (JsonRecordError(problems[0]) if problems else value), end


def _near(text: str, position: int) -> str:
    return repr(text[max(position - 20, 0) : position + 20])
