"""What cannot be asked is named with its query, before anything is generated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pvit_ext
from pvit_ext import Query, Region, RegionConfig, RegionError
from pvit_ext.tokens.processor import RegionProcessor
from tests.inference.queries import BOX, FINE, OPTIONS, WIDE, Loaded


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(WIDE, "What is <region>?"), "query 2: 1 <region> placeholders but 0 regions"),
        (Query(WIDE, "What is it?", [BOX]), "query 2: 0 <region> placeholders but 1 regions"),
        (Query(None, "What is <region>?", [BOX]), r"query 2, region 0: lies on image 0, the sample has 0 image"),
        (Query(WIDE, "<region>?", [Region.box(0, 0, 9, 9, image=1)]), r"query 2, region 0: lies on image 1"),
        (
            Query(WIDE, "<region> <region>?", [BOX, Region.box(70, 0, 90, 9)]),
            r"query 2, region 1: box .*outside its image",
        ),
        (Query(WIDE, "<region>?", [Region.mask(np.ones((3, 3)))]), r"query 2, region 0: mask is 3x3, its image 60x40"),
        (Query(WIDE, "<Region>five</Region>?"), r"query 2: malformed region"),
        (Query(WIDE, "<image> and <image>?"), r"query 2: 2 <image> in the text, 1 image"),
        (Query(WIDE, "<region>? " + "red " * 600, [BOX]), r"query 2: its prompt takes .* positions, .* is 512"),
        (Query(WIDE, "red " * 600), r"query 2: its prompt takes .* positions, .* is 512"),
    ],
)
def test_errors_name_the_query(tiny: Loaded, calls: list[Any], query: Query, message: str) -> None:
    with pytest.raises(RegionError, match=message):
        pvit_ext.ask(*tiny, [FINE, FINE, query], batch_size=3)
    assert not calls


def test_bad_query_of_a_later_batch_stops_before_the_first(tiny: Loaded, calls: list[Any]) -> None:
    with pytest.raises(RegionError, match="query 2"):
        pvit_ext.ask(*tiny, [FINE, FINE, Query(WIDE, "<region>", [Region.box(70, 0, 90, 9)])], batch_size=1)
    assert not calls


def test_errors_of_the_model_name_the_query(tiny: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    show = RegionProcessor.show
    monkeypatch.setattr(RegionProcessor, "show", lambda *given: replace(show(*given), extra=[None]))
    with pytest.raises(RegionError, match=r"^query 3, region 0, .*region_extra="):
        pvit_ext.ask(*tiny, [Query(WIDE, "Red?")] * 3 + [FINE], batch_size=2)


@pytest.mark.parametrize("content", [None, b"", b"no image", "cut"])
def test_unreadable_image_names_the_query(tiny: Loaded, tmp_path: Path, content: Any) -> None:
    path = tmp_path / "photo.png"
    if content == "cut":
        WIDE.save(path)
        content = path.read_bytes()[:2000]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RegionError, match=r"query 1: cannot read its image: "):
        pvit_ext.ask(*tiny, [FINE, Query(path, "Red?")], max_new_tokens=1)


# Other models, real questions


def test_model_without_regions_answers_and_refuses_regions(llava_checkpoint: Path) -> None:
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(llava_checkpoint), device="cpu")
    plain = [Query(WIDE, "Describe the image."), Query(None, "Red?")]
    answers = pvit_ext.ask(model, tokenizer, processor, plain, max_new_tokens=4)
    with pytest.raises(RegionError, match=r"^query 0: regions were given, but the model has no region encoder: .*swap"):
        pvit_ext.ask(model, tokenizer, processor, [FINE])
    pvit_ext.attach(model, RegionConfig("regionclip", encoder_options=OPTIONS))
    assert pvit_ext.ask(model, tokenizer, processor, plain, max_new_tokens=4) == answers
