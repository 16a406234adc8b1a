"""Names of classes and tables of tags in the encodings that tools write."""

from __future__ import annotations

from pathlib import Path

import pytest

from pvit_ext.data.tags.taggers import load_tagger
from tests.data.tags.tiny_onnx import COLOURS, write_detector


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_names_and_tags_in_any_unicode(tmp_path: Path, encoding: str) -> None:
    (names := tmp_path / "names.txt").write_text("\n".join(COLOURS), encoding=encoding)
    tagger = load_tagger(str(write_detector(tmp_path / "d.onnx")), str(names), 0.5)
    assert tagger.detector.names == tuple(COLOURS)  # type: ignore[attr-defined]
    (tmp_path / "t.json").write_text('{"a.png": ["red"]}', encoding=encoding)
    assert load_tagger(str(tmp_path / "t.json")).table == {"a.png": ["red"]}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["t.json", "names.txt"])
def test_names_and_tags_in_another_encoding_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes('{"é": ["red"]}'.encode("latin-1"))
    words = (str(tmp_path / "d.onnx"), str(tmp_path / name)) if name == "names.txt" else (str(tmp_path / name),)
    write_detector(tmp_path / "d.onnx")
    with pytest.raises(ValueError, match=rf"{name} is not UTF-8 text"):
        load_tagger(*words)
