"""Whatever a file holds, it is read or reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvit_ext.data.check import validate
from tests.data.records import record, write

HOSTILE = {
    "": "holds no record", " \n ": "holds no record", "[]": "holds no record", "[": "not valid JSON",
    '[{"id": 1}': "neither ',' nor ']'", "[{},]": "not valid JSON", "[{}] x": "more text after the array",
    '{"a": 1} {"b": 2}': "more text after the record", "[" * 100_000: "JSON", "{" * 100_000: "JSON",
    "[" + "9" * 5000 + "]": "JSON", "{'id': 1}": "not valid JSON", "[1 2]": "neither",
    '{"a": "line\nbreak"}': "not valid JSON", "[] x": "more text", "null": "a record is a JSON object",
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:12]))
def test_hostile_files(folder: Path, text: str) -> None:
    problems = validate(write(folder, text))
    assert any(HOSTILE[text] in found for found in problems)
    assert all(found.startswith("train.json line ") and len(found) < 400 for found in problems)


def test_deeply_nested_fields_inside_a_record(folder: Path) -> None:
    path = write(folder, json.dumps(record()) + "\n" + '{"a":' + "[" * 100_000 + "\n" + json.dumps(record()), "t.jsonl")
    assert [found.split(":")[0] for found in validate(path, folder)] == ["t.jsonl line 2"]


def test_bytes_that_are_not_text(folder: Path) -> None:
    (folder / "train.json").write_bytes(b'[{"id": "\xff"}]')
    assert "not UTF-8" in validate(folder / "train.json")[0]


KEYS = st.sampled_from(["image", "conversations", "regions", "from", "value", "box", "mask"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(anything)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_json_is_read_or_reported(tmp_path_factory: Any, value: Any) -> None:
    path = write(tmp_path_factory.mktemp("any"), json.dumps([value]))
    assert validate(path)
