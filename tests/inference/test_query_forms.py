"""Images and regions of a query in every form that they come in."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pvit_ext
from pvit_ext import Query, RegionError
from pvit_ext.tokens.processor import RegionProcessor
from tests.inference.queries import BOX, FINE, MIXED, WIDE, Loaded


def test_objects_in_another_order_or_of_another_kind(tiny: Loaded) -> None:
    model, tokenizer, processor = tiny
    with pytest.raises(TypeError, match=r"got a \w+ as the model; load it with pvit_ext.load_pretrained_model"):
        pvit_ext.ask(tokenizer, model, processor, MIXED[:1])
    with pytest.raises(TypeError, match=r"queries is Query.*; give a list"):
        pvit_ext.ask(*tiny, MIXED[0])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="query 1 is str 'What'; give Query"):
        pvit_ext.ask(*tiny, [MIXED[0], "What"])  # type: ignore[list-item]


def test_array_bytes_and_lists_of_numbers(tiny: Loaded, tmp_path: Path) -> None:
    WIDE.save(tmp_path / "wide.png")
    content = (tmp_path / "wide.png").read_bytes()
    places: list[Any] = [WIDE, np.asarray(WIDE), content, io.BytesIO(content)]
    queries = [Query(place, "What is <region>?", [3, 4, 20, 30]) for place in places]
    answers = pvit_ext.ask(*tiny, [*queries, Query(WIDE, "What is <region>?", BOX)], max_new_tokens=6)
    assert len(set(answers)) == 1
    with pytest.raises(RegionError, match=r"^query 1: cannot read its image: .*float64") as raised:
        pvit_ext.ask(*tiny, [queries[0], Query(np.zeros((900, 900, 3)), "Red?")])
    assert len(str(raised.value)) < 400


def test_no_queries(tiny: Loaded) -> None:
    assert pvit_ext.ask(*tiny, []) == []


def test_paths_and_pictures_give_the_same(tiny: Loaded, tmp_path: Path) -> None:
    WIDE.save(tmp_path / "wide.png")
    places: list[Any] = [WIDE, tmp_path / "wide.png", str(tmp_path / "wide.png"), [WIDE]]
    answers = pvit_ext.ask(*tiny, [Query(place, "What is <region>?", [BOX]) for place in places], max_new_tokens=6)
    assert len(set(answers)) == 1


def test_errors_of_the_model_name_the_query(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    show = RegionProcessor.show
    monkeypatch.setattr(RegionProcessor, "show", lambda *given: replace(show(*given), extra=[None]))
    with pytest.raises(RegionError, match=r"^query 3, region 0, .*region_extra="):
        pvit_ext.ask(*tiny, [Query(WIDE, "Red?")] * 3 + [FINE], batch_size=2)
