"""Places of values in JSON: the same values as json reads, and the line of every damage."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvit_ext.data.convert.json_buffer import JsonBuffer
from pvit_ext.data.convert.notes import BadItem

TEXT = st.text(st.sampled_from('ab"\\{}[],:\n\u00e9\u2028'), max_size=6)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def _write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "file.json"
    path.write_bytes(text.encode(encoding))
    return JsonBuffer(path)


@given(value=st.dictionaries(TEXT, VALUE, max_size=5), indent=st.sampled_from([None, 1]))
@settings(max_examples=50, deadline=None)
def test_sections_are_the_values(tmp_path_factory, value, indent):
    buffer = _write(tmp_path_factory.mktemp("json"), json.dumps(value, indent=indent))
    sections = buffer.sections()
    assert {key: buffer.load(one.start, one.end) for key, one in sections.items()} == value
    for key, one in sections.items():
        elements = [buffer.load(start, end) for start, end in zip(one.starts, one.ends, strict=True)]
        assert elements == (value[key] if elements else [])
        if isinstance(value[key], list) and any(isinstance(item, dict) for item in value[key]):
            assert elements == value[key]


@given(value=st.lists(VALUE, max_size=5))
@settings(max_examples=50, deadline=None)
def test_items_are_the_elements(tmp_path_factory, value):
    buffer = _write(tmp_path_factory.mktemp("json"), json.dumps(value))
    section = buffer.items()
    assert [buffer.load(*span) for span in zip(section.starts, section.ends, strict=True)] == value


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings(tmp_path, encoding):
    buffer = _write(tmp_path, '{"a": [{"b": "\u00e9"}], "c": 1}', encoding)
    section = buffer.sections()["a"]
    assert buffer.load(section.starts[0], section.ends[0]) == {"b": "\u00e9"}
    buffer = _write(tmp_path, '[{"b": "\u00e9"}]', encoding)
    assert len(buffer.items().starts) == 1


def test_lines(tmp_path):
    buffer = _write(tmp_path, '{"a": 1}\n\n  {"a": 2}\r\n{"a": 3}')
    section = buffer.items()
    spans = list(zip(section.starts, section.ends, strict=True))
    assert [(buffer.line(start), buffer.load(start, end)["a"]) for start, end in spans] == [(1, 1), (3, 2), (4, 3)]


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ('{"a": [\n{"b": 1},\n{"b": ', 3, "an object that ends"),
        ('{"a": [\n{"b": 1}\n{"b": 2}]}', 3, "',' or ']'"),
        ('{"a": [{"b": 1}],\n', 2, "a key"),
        ('{"a" 1}', 1, "':'"),
        ('{"a": }', 1, "a value"),
        ('{"a": 1', 1, "',' or '}'"),
        ("[1]", 1, "a JSON object that begins with {"),
        ("", 1, "a JSON object"),
    ],
)
def test_damage(tmp_path, text, line, expected):
    with pytest.raises(BadItem) as caught:
        _write(tmp_path, text).sections()
    assert caught.value.location == f"file.json line {line}"
    assert f"expected {expected}" in str(caught.value)


def test_a_truncated_file_is_told_in_time_that_grows_with_its_length(tmp_path):
    text = '{"a": [' + '{"b": [[1, 2, 3, 4]], "c": {"d": "e"}}, ' * 20000 + '{"b": {"c": {"d": "'
    with pytest.raises(BadItem, match="an object that ends"):
        _write(tmp_path, text).sections()


def test_objects_deeper_than_the_expression(tmp_path):
    value = {"a": [{"deep": 1}]}
    for _ in range(20):
        value = {"a": [value, "}{"]}
    buffer = _write(tmp_path, json.dumps(value))
    section = buffer.sections()["a"]
    assert buffer.load(section.starts[0], section.ends[0]) == value["a"][0]


def test_a_value_that_is_no_json_has_its_line(tmp_path):
    buffer = _write(tmp_path, '{"a": [\n{"b": nul}]}')
    section = buffer.sections()["a"]
    with pytest.raises(BadItem, match="not valid JSON") as caught:
        buffer.load(section.starts[0], section.ends[0])
    assert caught.value.location == "file.json line 2"
