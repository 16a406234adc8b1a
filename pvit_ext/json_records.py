"""Read a JSON array or JSON Lines record by record, each with its line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

_SPACE = re.compile(r"[ \t\n\r]*")


class JsonRecordError(ValueError):
    """A record that is not valid JSON, or ambiguous."""


def read_json_records(path: str | PathLike[str]) -> Iterator[tuple[int, Any]]:
    """(line, value) of each record; the value is a JsonRecordError where it could not be read.

    JSON Lines goes on after a bad line. A syntax error in an array ends it, for the next record cannot be found.
    A key that is given twice, NaN and Infinity are errors: readers of JSON disagree on what they mean.

    Args:
        path: UTF-8, with or without a byte-order mark; the first character tells an array from lines.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield 1, JsonRecordError(f"the file is not UTF-8: {error.reason} at byte {error.start}")
        return
    start = _skip(text, 0)
    if text.startswith("[", start):
        yield from _array(text, start + 1)
    else:
        yield from _lines(text)


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: U+2028 may stand in a JSON string
        if not line.strip():
            continue
        value, end = _decode(line, _skip(line, 0))
        if end is not None and _skip(line, end) < len(line):
            value = JsonRecordError(f"more text after the record, at column {end + 1}; one record a line")
        yield number, value


def _array(text: str, position: int) -> Iterator[tuple[int, Any]]:
    line, counted = 1, 0
    position = _skip(text, position)
    if not (more := not text.startswith("]", position)):
        position += 1
    while more:
        position = _skip(text, position)
        line, counted = line + text.count("\n", counted, position), position
        value, end = _decode(text, position)
        yield line, value
        if end is None:
            return
        position = _skip(text, end)
        more = text.startswith(",", position)
        if not more and not text.startswith("]", position):
            yield line, JsonRecordError(f"the array goes on with neither ',' nor ']' near {_near(text, position)}")
            return
        position += 1
    if _skip(text, position) < len(text):
        yield line, JsonRecordError(f"more text after the array near {_near(text, position)}")


def _decode(text: str, position: int) -> tuple[Any, int | None]:
    """The value at a position, or what is wrong with it, and its end, None if it has none."""
    try:
        return _STRICT.raw_decode(text, position)
    except JsonRecordError as error:
        return error, json.JSONDecoder().raw_decode(text, position)[1]
    except json.JSONDecodeError as error:
        return JsonRecordError(f"not valid JSON: {error.msg} near {_near(text, error.pos)}"), None
    except (ValueError, RecursionError) as error:  # integers of thousands of digits, thousands of brackets
        return JsonRecordError(f"not usable JSON: {error}"), None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise JsonRecordError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return values


def _no_constant(name: str) -> NoReturn:
    raise JsonRecordError(f"{name} is not valid JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _near(text: str, position: int) -> str:
    return repr(text[max(position - 20, 0) : position + 20])
