"""Files of benchmarks as other programs save them: with a byte-order mark, or in UTF-16."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pvit_ext.evaluation.caption_files import PIXELREFER, kind_of
from pvit_ext.evaluation.coco_file import CocoFile
from pvit_ext.evaluation.judge.prompts import read_prompt
from pvit_ext.evaluation.tasks.gar_bench import items_of

COCO: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
READERS: list[tuple[Callable[[Path], Any], str, Any]] = [
    (lambda path: CocoFile.read(path).values, json.dumps(COCO), COCO),
    (kind_of, '[{"caption": ["é"], "mask": []}]', PIXELREFER),
    (items_of, '[{"id": "é"}]', [{"id": "é"}]),
    (lambda path: read_prompt(path, ["answer"]), "é {answer}\r\n", "é {answer}\n"),
]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("reader", "text", "found"), READERS)
def test_a_file_in_any_unicode(
    tmp_path: Path, encoding: str, reader: Callable[[Path], Any], text: str, found: Any
) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(text.encode(encoding))
    assert reader(path) == found
