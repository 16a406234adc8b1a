"""``ask`` on both hosts: an answer is the same alone, in any batch and in any thread; errors name the query."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pvit_ext
from pvit_ext import Query, Region, RegionConfig, RegionError
from tests.hosts.tiny_hosts import (
    BOX,
    FEW,
    MIXED,
    OSPREY,
    PLAIN_MIXED,
    SAVED,
    TALL,
    WIDE,
    Parts,
    TinyHost,
    batch_of,
    load,
    logits,
    save,
)

CHOSEN = replace(OSPREY, box_embedding=True)
FINE = Query(WIDE, "what is <region> ?", [BOX])
ASKED_WITHOUT_AN_IMAGE = pytest.mark.parametrize(
    "host", [name for name in FEW if "paligemma" not in str(name)], indirect=True
)
"""For tests with a query of text alone, which PaliGemma's processor refuses."""
_TALKING: dict[int, Parts] = {}


@pytest.fixture
def talking(host: TinyHost) -> Parts:
    """A model whose answers differ, made once for each host."""
    if id(host) not in _TALKING:
        _TALKING[id(host)] = host.talking(CHOSEN)
    return _TALKING[id(host)]


@pytest.fixture
def calls(talking: Parts, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Arguments of every ``generate``."""
    seen: list[dict[str, Any]] = []
    generate = type(talking.model).generate

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(dict(kwargs))
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(type(talking.model), "generate", spy)
    return seen


def answers(parts: Parts, queries: list[Query] = MIXED, **options: Any) -> Any:
    return pvit_ext.ask(*parts, queries, **{"max_new_tokens": 5, **options})


@ASKED_WITHOUT_AN_IMAGE
def test_an_answer_is_the_same_alone_and_in_any_batch(talking: Parts) -> None:
    alone = [answers(talking, [query])[0] for query in MIXED]
    assert all(alone)
    for size in (2, 3, 8):
        assert answers(talking, batch_size=size) == alone
    order = [5, 3, 0, 2, 4, 1]
    assert answers(talking, [MIXED[number] for number in order], batch_size=4) == [alone[number] for number in order]


@ASKED_WITHOUT_AN_IMAGE
def test_threads_share_a_model(talking: Parts) -> None:
    alone = [answers(talking, [query])[0] for query in MIXED]
    parts = [range(start, start + 1 + start % 3) for start in range(4)] * 2
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda part: answers(talking, [MIXED[number] for number in part]), parts))
    assert found == [[alone[number] for number in part] for part in parts]


def test_regions_change_the_answer(talking: Parts) -> None:
    boxes = [Region.box(20, 3, 39, 35), Region.box(45, 3, 75, 52), Region.box(30, 30, 60, 40)]
    queries = [Query(WIDE, "<region>" * 8, [box] * 8) for box in boxes]
    first = torch.stack([batch_logits(talking, query) for query in queries])
    assert torch.pdist(first).min() > 1e-4


def batch_logits(parts: Parts, query: Query) -> torch.Tensor:
    """Of the first new token."""
    return logits(parts.model, batch_of(parts, [query]))[0, -1]


@ASKED_WITHOUT_AN_IMAGE
@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True}], ids=["beams", "sampled"])
def test_several_answers_a_query_are_a_list_each(talking: Parts, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    found = answers(talking, MIXED[:3], batch_size=2, num_return_sequences=2, **options)
    assert [len(one) for one in found] == [2, 2, 2]
    if "num_beams" in options:
        assert [one[0] for one in found] == answers(talking, MIXED[:3], **options)
        assert found == [answers(talking, [query], num_return_sequences=2, **options)[0] for query in MIXED[:3]]


@ASKED_WITHOUT_AN_IMAGE
@pytest.mark.parametrize("encoder", ["text", "overlay"])
def test_encoders_that_describe_or_paint(host: TinyHost, encoder: str) -> None:
    parts = host.talking(RegionConfig(encoder))
    assert len(answers(parts, MIXED[:1])) == 1
    assert answers(parts, MIXED[1:]) == [answers(parts, [query])[0] for query in MIXED[1:]]


@pytest.mark.parametrize("host", SAVED, indirect=True)
def test_what_is_saved_answers_alike(host: TinyHost, talking: Parts, tmp_path: Path) -> None:
    """As one checkpoint, and as region modules on one."""
    expected = answers(talking)
    save(host, talking, tmp_path / "all")
    pvit_ext.save_region_modules(talking.model, tmp_path / "regions", base=str(tmp_path / "all"))
    for folder in (tmp_path / "all", tmp_path / "regions"):
        assert answers(load(folder)) == expected


@ASKED_WITHOUT_AN_IMAGE
def test_a_model_without_regions_answers_and_refuses_them(host: TinyHost, talking: Parts) -> None:
    parts = host.stock_parts()
    found = answers(parts, PLAIN_MIXED)
    with pytest.raises(RegionError, match=r"^query 1: regions were given, but the model has no region encoder"):
        answers(parts, [PLAIN_MIXED[0], FINE])
    pvit_ext.attach(parts.model, CHOSEN, processor=parts.processor)
    assert answers(parts, PLAIN_MIXED) == found
    assert len(answers(parts, [FINE])) == 1


def test_a_turned_picture_is_upright_for_regions(talking: Parts, tmp_path: Path) -> None:
    """A tall photograph stored on its side with EXIF orientation 6, as phones do."""
    exif = Image.Exif()
    exif[0x0112] = 6
    TALL.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    region = Region.box(2, 61, 38, 89)  # outside the 90x41 picture as stored
    queries = [Query(image, "what is <region> ?", [region]) for image in (TALL, tmp_path / "turned.png")]
    upright, turned = (batch_logits(talking, query) for query in queries)
    assert torch.equal(upright, turned)
    assert queries[1].image_sizes() == [TALL.size]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (Query(WIDE, "what is <region> ?"), r"^query 2: 1 <region> placeholders but 0 regions"),
        (Query(WIDE, "what is it ?", [BOX]), r"^query 2: 0 <region> placeholders but 1 regions"),
        (
            Query(WIDE, "what is <region1> ?"),
            r"^query 2: '<region1>' in its question is text that no encoder reads",
        ),
        (Query(WIDE, "<region> or <region2> ?", [BOX]), r"^query 2: '<region2>' in its question is text"),
        (Query(WIDE, "what ?", history=[("<bbox> ?", "a dog")]), r"^query 2, history\[0\]: '<bbox>' in its question"),
        (Query(None, "what is <region> ?", [BOX]), r"^query 2, region 0: lies on image 0, the sample has 0 image"),
        (Query(WIDE, "<region> ?", [Region.box(0, 0, 9, 9, image=1)]), r"^query 2, region 0: lies on image 1"),
        (Query(WIDE, "<region> <region> ?", [BOX, Region.box(100, 0, 120, 9)]), r"^query 2, region 1: .*outside its"),
        (Query(WIDE, "<Region>five</Region> ?"), r"^query 2: malformed region"),
        (Query(WIDE, "<image> and <image> ?"), r"^query 2: 2 <image> in the text, 1 image"),
        (Query(WIDE, "<region> ? " + "red " * 9000, [BOX]), r"^query 2: its prompt takes \d+ positions, .* is \d+"),
        (Query(WIDE, "red " * 9000), r"^query 2: its prompt takes \d+ positions, .* is \d+"),
        (
            Query(WIDE, "<region> ?", [Region.mask(np.ones((3, 3)))]),
            r"^query 2, region 0: mask is 3x3, its image 97",
        ),
        (Query("nowhere.png", "what ?"), r"^query 2: cannot read its image"),
    ],
)
def test_errors_name_the_query(talking: Parts, calls: list[Any], query: Query, message: str) -> None:
    with pytest.raises(RegionError, match=message):
        answers(talking, [FINE, FINE, query])
    assert not calls


def test_a_bad_query_of_a_later_batch_stops_before_the_first(talking: Parts, calls: list[Any]) -> None:
    with pytest.raises(RegionError, match="query 2"):
        answers(talking, [FINE, FINE, Query(WIDE, "<region>", [Region.box(170, 0, 190, 9)])], batch_size=1)
    assert not calls


@pytest.mark.parametrize("content", [None, b"", b"no image", "cut"])
def test_an_unreadable_image_names_the_query(talking: Parts, tmp_path: Path, content: Any) -> None:
    path = tmp_path / "photo.png"
    if content == "cut":
        WIDE.save(path)
        content = path.read_bytes()[:2000]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RegionError, match=r"query 1: cannot read its image: "):
        answers(talking, [FINE, Query(path, "Red?")], max_new_tokens=1)


def test_parts_in_another_order_are_named(talking: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer, processor = talking
    with pytest.raises((TypeError, ValueError), match=r"^the (second|third) argument is"):
        pvit_ext.ask(model, processor, tokenizer, MIXED)
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages }}", raising=False)
    for other in (tokenizer, SimpleNamespace(tokenizer=tokenizer)):
        kind = type(other).__name__
        with pytest.raises((TypeError, ValueError), match=f"^the third argument is a {kind}(, and no| that has no)"):
            pvit_ext.ask(model, tokenizer, other, MIXED)
