"""``ask`` on transformers' own models, and the README's first example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import pvit_ext
from pvit_ext import Query, Region, RegionError
from tests.hosts.transformers.inputs import ALL_BUT_TWO_SLOW, IMAGES, OSPREY, with_regions
from tests.hosts.transformers.zoo import ROWS, ZOO

QUERIES = [
    Query(IMAGES[0], "what is in <region> ?", [Region.box(10, 20, 40, 50)]),
    Query(IMAGES[1], "and <region> ?", [(3, 40, 20, 70)] * 2, history=[("what is in <region> ?", "a cat")]),
    Query(IMAGES[0], "where is the dog ?"),
]


@pytest.mark.parametrize("name", ALL_BUT_TWO_SLOW)
def test_answers_are_the_same_alone_and_in_a_batch(name: str) -> None:
    model, processor = with_regions(name)
    words = len(processor.tokenizer)
    options = {"max_new_tokens": 5, "suppress_tokens": [*range(8), *range(words - 1, ROWS)]}
    asked = pvit_ext.ask(model, processor.tokenizer, processor, QUERIES, **options)
    assert asked == [pvit_ext.ask(model, processor.tokenizer, processor, [query], **options)[0] for query in QUERIES]
    assert all(len(answer.split()) == 5 for answer in asked)


@pytest.mark.parametrize("encoder", ["text", "overlay"])
def test_encoders_that_describe_or_paint(encoder: str) -> None:
    model, processor = with_regions("llava", encoder, {})
    assert len(pvit_ext.ask(model, processor.tokenizer, processor, QUERIES, max_new_tokens=2)) == 3


def test_the_first_example_of_the_readme(tmp_path: Path) -> None:
    stock, processor = ZOO["llava"]()
    stock.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    config = pvit_ext.RegionConfig(encoder="osprey", encoder_options=OSPREY)
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(tmp_path), region_config=config, device="cpu")
    query = Query(Image.new("RGB", (300, 400)), "What is <region> doing?", [Region.box(10, 20, 200, 300)])
    assert len(pvit_ext.ask(model, tokenizer, processor, [query], max_new_tokens=3)) == 1


def test_errors_name_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = with_regions("llava")

    def ask(query: Query, **options: Any) -> Any:
        return pvit_ext.ask(model, processor.tokenizer, processor, [query], **options)

    with pytest.raises(RegionError, match="query 0: 2 <image> in the text, 1 image"):
        ask(Query(IMAGES[0], "<image> <image> what"))
    with pytest.raises(ValueError, match="conv_version='v1'"):
        ask(QUERIES[0], conv_version="v1")
    monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 10)
    with pytest.raises(RegionError, match=r"query 0: its prompt takes \d+ positions"):
        ask(QUERIES[0])
    processor.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        ask(QUERIES[0])
