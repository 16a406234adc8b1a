"""``ask(..., features=)``: the towers see an image once for all questions about it, and the answers are the same."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import pvit_ext
from pvit_ext import ImageFeatures, Query, Region, RegionConfig
from pvit_ext.encoders.own_tower import TowerEncoder
from pvit_ext.hosts.find import host_of
from pvit_ext.inference.session import one_batch, shared_images
from pvit_ext.regions.region import RegionError
from tests.encoders.regionclip import TINY as REGIONCLIP
from tests.hosts.test_asking import CHOSEN
from tests.hosts.tiny_hosts import (
    BOX,
    HAS_TRANSFORMERS_HOST,
    LLAVA,
    MIXED,
    ON_EVERY_FAMILY,
    TALL,
    WIDE,
    Parts,
    TinyHost,
    logits,
)

NO_LIMIT = 1 << 30
BOTH = [*LLAVA, *(["transformers/llava"] if HAS_TRANSFORMERS_HOST else [])]
"""A model of each host, of towers that take images of one size."""
ENCODERS = [
    CHOSEN,
    RegionConfig("regionclip", encoder_options=REGIONCLIP, cross_layers=1),
    RegionConfig("focal"),
    RegionConfig("overlay"),
    RegionConfig("text"),
]
MANY = [Query(TALL, "what is <region> ?", [Region.box(x, 2 * x, x + 9, 2 * x + 30)]) for x in range(0, 25, 6)]


def asked(parts: Parts, queries: list[Query], features: ImageFeatures | None, **options: Any) -> Any:
    return pvit_ext.ask(*parts, queries, max_new_tokens=3, features=features, **options)


def mixed(host: TinyHost) -> list[Query]:
    """Without a query of text alone where the processor refuses one."""
    return [query for query in MIXED if query.image is not None or "paligemma" not in getattr(host, "family", "")]


def both_logits(parts: Parts, query: Query, features: ImageFeatures) -> list[torch.Tensor]:
    """Of one query, without and with shared images."""
    chat, found = host_of(parts.model).chat(*parts, None, None), []
    prompts = [chat.prompt(query, "query 0")]
    for shared in (None, shared_images(chat, parts.model, features)):
        batch = one_batch(chat, [query], prompts, shared)
        batch["input_ids"] = batch.pop("inputs", batch.get("input_ids"))
        found.append(logits(parts.model, {key: value for key, value in batch.items() if key != "labels"}))
    return found


class Passes:
    """Counts the images that towers see."""

    def __init__(self, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
        self.vision = self.maps = 0
        chat = host_of(parts.model).chat(*parts, None, None)
        tower = chat.vision_tower()
        assert tower is not None
        stock, run = tower.seen.module.forward, TowerEncoder.run_tower
        encoder = parts.model.region_module.region_encoder

        def forward(*args: Any, **kwargs: Any) -> Any:
            self.vision += 1
            return stock(*args, **kwargs)

        monkeypatch.setattr(tower.seen.module, "forward", forward)
        if isinstance(encoder, TowerEncoder):
            run = encoder.run_tower

            def run_tower(pixels: torch.Tensor) -> torch.Tensor:
                self.maps += 1
                return run(pixels)

            monkeypatch.setattr(encoder, "run_tower", run_tower)


def check_same(host: TinyHost, config: RegionConfig) -> None:
    """Answers and logits are those without; nothing that is kept is written to."""
    parts, features, queries = host.talking(config), ImageFeatures(NO_LIMIT), mixed(host)
    expected = asked(parts, queries, None)
    assert asked(parts, queries, features) == expected
    kept = [one for value, _ in features._kept.values() for one in getattr(value, "tensors", ()) or ()]
    before = [one.clone() for one in kept]
    assert asked(parts, queries, features, batch_size=3) == expected
    assert asked(parts, queries[:1], features) == expected[:1]
    made = features.misses
    assert asked(parts, queries[:1], features, num_beams=2, num_return_sequences=2) == asked(
        parts, queries[:1], None, num_beams=2, num_return_sequences=2
    )
    assert features.misses == made
    for query in queries:
        plain, shared = both_logits(parts, query, features)
        torch.testing.assert_close(plain, shared, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(*pair) for pair in zip(kept, before, strict=True))


@pytest.mark.slow
@ON_EVERY_FAMILY
def test_every_family_answers_the_same(host: TinyHost) -> None:
    check_same(host, CHOSEN)


@pytest.mark.slow
@pytest.mark.parametrize("host", BOTH, indirect=True)
@pytest.mark.parametrize("config", ENCODERS, ids=lambda config: config.encoder)
def test_every_kind_of_encoder_answers_the_same(host: TinyHost, config: RegionConfig) -> None:
    """On the tower's maps, with a tower of its own and cross layers, looking again, painting, in words."""
    check_same(host, config)


@pytest.mark.parametrize("host", BOTH, indirect=True)
def test_an_image_is_seen_once_for_many_questions(host: TinyHost, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, features = host.talking(ENCODERS[1]), ImageFeatures(NO_LIMIT)
    expected = asked(parts, MANY, None, batch_size=3)
    passes = Passes(parts, monkeypatch)
    assert asked(parts, MANY[:1], features) == expected[:1]
    first = passes.vision
    assert asked(parts, MANY, features, batch_size=3) == expected
    assert (passes.vision, passes.maps) == (first, 1)
    assert all(torch.equal(*both_logits(parts, query, features)) for query in MANY[:2])


@pytest.mark.parametrize("host", ["llava/mpt"], indirect=True)
def test_a_language_model_that_shares_no_beginning_answers_the_same(host: TinyHost) -> None:
    """MPT's positions follow from the length, and its blocks have another name than LLaMA's."""
    host.folder()
    parts, features = host.attached(CHOSEN), ImageFeatures(NO_LIMIT)
    assert asked(parts, MANY, features, batch_size=3) == asked(parts, MANY, None, batch_size=3)
    assert features.misses == 1
    assert all(torch.equal(*both_logits(parts, query, features)) for query in MANY[:2])


@pytest.mark.parametrize("host", BOTH, indirect=True)
def test_answers_follow_the_image_and_the_model(host: TinyHost, tmp_path: Path) -> None:
    """Same path and another picture, same picture and other weights, another size of the processor."""
    parts, features, path = host.talking(CHOSEN), ImageFeatures(NO_LIMIT), tmp_path / "photo.png"
    query = Query(path, "what is <region> ?", [BOX])
    for image in (WIDE, TALL.resize(WIDE.size)):
        image.save(path)
        plain, shared = both_logits(parts, query, features)
        assert torch.equal(plain, shared)
    misses = features.misses
    both_logits(parts, query, features)
    assert features.misses == misses
    chat = host_of(parts.model).chat(*parts, None, None)
    with torch.no_grad():
        for parameter in chat.vision_tower().seen.module.parameters():
            parameter.mul_(1.5)
    plain, shared = both_logits(parts, query, features)
    assert torch.equal(plain, shared)
    assert features.misses > misses


@pytest.mark.slow
def test_threads_share_features(host: TinyHost) -> None:
    """In some threads the tower returns what is kept, in others it runs."""
    parts, features = host.talking(CHOSEN), ImageFeatures(NO_LIMIT)
    queries = [query for query in mixed(host) if query.image is not None]
    alone = [asked(parts, [query], None)[0] for query in queries]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda n: asked(parts, [queries[n % 3]], features if n % 2 else None)[0], range(8))
    assert list(found) == [alone[n % 3] for n in range(8)]


@pytest.mark.slow
def test_a_bound_in_bytes_holds_and_answers_stay(host: TinyHost) -> None:
    parts = host.talking(CHOSEN)
    queries = [MANY[0], Query(WIDE, "what is <region> ?", [BOX])] * 2
    all_of_it = ImageFeatures(NO_LIMIT)
    expected = asked(parts, queries, all_of_it, batch_size=1)
    assert all_of_it.misses == 2
    one = ImageFeatures(all_of_it.bytes * 3 // 4)
    assert asked(parts, queries, one, batch_size=1) == expected
    assert (len(one), one.misses) == (1, 4)
    assert one.bytes <= one.max_bytes
    none = ImageFeatures(1)
    assert asked(parts, queries, none, batch_size=1) == expected
    assert (len(none), none.bytes) == (0, 0)


@pytest.mark.parametrize("host", LLAVA, indirect=True)
def test_an_image_that_cannot_be_read_is_named(host: TinyHost, tmp_path: Path) -> None:
    parts, path = host.talking(CHOSEN), tmp_path / "cut.png"
    buffer = io.BytesIO()
    WIDE.save(buffer, "PNG")
    path.write_bytes(buffer.getvalue()[:3000])
    queries = [MANY[0], Query(path, "what is <region> ?", [BOX])]
    with pytest.raises(RegionError, match=r"^query 1: cannot read its image: .*cut\.png"):
        asked(parts, queries, ImageFeatures(NO_LIMIT))


@pytest.mark.parametrize("host", LLAVA, indirect=True)
def test_what_is_no_store_is_refused(host: TinyHost) -> None:
    with pytest.raises(TypeError, match=r"features is dict \{\}; give ImageFeatures\(max_bytes\)"):
        asked(host.talking(CHOSEN), MANY, {})  # type: ignore[arg-type]
