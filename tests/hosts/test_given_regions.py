"""Regions as users have them, given to a model's own forward and generate: read as `ask` reads them, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pvit_ext import Region, RegionError
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST, LLAVA, OSPREY, PLAIN, Parts, Query, TinyHost, batch_of

WIDE = PLAIN[0].image
BOX = Region.box(5, 5, 40, 40)
ONE, TWO = ([Query(WIDE, "what is in <region> ?", [BOX])] * count for count in (1, 2))
MASK = np.zeros((60, 97), bool)
MASK[5:40, 5:40] = True

on_llava = pytest.mark.parametrize("host", LLAVA, indirect=True)
on_both = pytest.mark.parametrize(
    "host", [*LLAVA, *(["transformers/llava"] if HAS_TRANSFORMERS_HOST else [])], indirect=True
)


@pytest.fixture(scope="module")
def attached() -> dict[int, Parts]:
    return {}


@pytest.fixture
def parts(host: TinyHost, attached: dict[int, Parts]) -> Parts:
    """One model of each host for this file; nothing here changes it."""
    if id(host) not in attached:
        attached[id(host)] = host.attached(OSPREY)
        attached[id(host)].model.eval()
    return attached[id(host)]


def generate(parts: Parts, batch: dict[str, Any]) -> torch.Tensor:
    given = dict(batch)
    found: torch.Tensor = parts.model.generate(given.pop("input_ids"), **given, max_new_tokens=1, do_sample=False)
    return found


@on_llava
@pytest.mark.parametrize(
    ("queries", "regions"),
    [
        (ONE, [[[5, 5, 40, 40]]]),
        (ONE, [[5, 5, 40, 40]]),
        (ONE, np.array([[5, 5, 40, 40]])),
        (ONE, torch.tensor([[[5, 5, 40, 40]]])),
        (ONE, BOX),
        (ONE, [BOX]),
        (TWO, [BOX, [(5, 5, 40, 40)]]),
        (TWO, torch.tensor([[5.0, 5, 40, 40]] * 2)),
    ],
)
def test_a_model_that_resolves_takes_what_ask_takes(parts: Parts, queries: list[Query], regions: Any) -> None:
    batch = batch_of(parts, queries)
    given = batch | {"regions": regions, "image_sizes": torch.tensor([WIDE.size] * len(queries))}
    with torch.no_grad():
        assert torch.equal(parts.model(**given).logits, parts.model(**batch).logits)
    assert torch.equal(generate(parts, given), generate(parts, batch))


@on_llava
@pytest.mark.parametrize("regions", [MASK, [MASK], MASK[None]])
def test_masks(parts: Parts, regions: Any) -> None:
    batch = batch_of(parts, [Query(WIDE, "what is in <region> ?", [MASK])])
    with torch.no_grad():
        assert torch.equal(parts.model(**batch | {"regions": regions}).logits, parts.model(**batch).logits)


@on_both
@pytest.mark.parametrize(
    ("queries", "regions", "message"),
    [
        (ONE, ["a dog"], r"^sample 0: its regions are str 'a dog'; regions are Region\.box"),
        (ONE, [["a dog"]], r"^sample 0, region 0 is str 'a dog'; regions are Region\.box"),
        (ONE, "a dog", r"^regions is str 'a dog'; give a list of regions \(or None\) for each of 1 prompt"),
        (ONE, [[[5, 5]]], r"^sample 0, region 0 is list \[5, 5\]; "),
        (TWO, BOX, r"^regions is one region, for 2 prompts: give a list of regions \(or None\) for each"),
        (TWO, [5, 5, 40, 40], "^regions is one region, for 2 prompts"),
    ],
)
def test_what_is_no_region_is_said_in_one_sentence(
    parts: Parts, queries: list[Query], regions: Any, message: str
) -> None:
    batch = batch_of(parts, queries) | {"regions": regions}
    for call in (lambda: parts.model(**batch), lambda: generate(parts, batch)):
        with pytest.raises(RegionError, match=message):
            call()


@on_both
def test_another_number_of_lists(parts: Parts) -> None:
    batch = batch_of(parts, TWO)
    for call in (lambda given: parts.model(**given), lambda given: generate(parts, given)):
        with pytest.raises(RegionError, match="regions holds 1 samples, input_ids 2"):
            call(batch | {"regions": batch["regions"][:1]})


@on_both
def test_a_region_of_an_image_of_another_size_is_refused(parts: Parts) -> None:
    batch = batch_of(parts, ONE)
    name = "region_sizes" if "region_sizes" in batch else "image_sizes"
    for call in (lambda given: parts.model(**given), lambda given: generate(parts, given)):
        with pytest.raises(RegionError, match="its image has 97x60 pixels, this one 50x40; resolve the original"):
            call(batch | {name: [(50, 40)]})
        with pytest.raises(RegionError, match=rf"^{name} is list \[97, 60\]; give \(width, height\) of each image"):
            call(batch | {name: [97, 60]})
        call(batch | {name: torch.tensor([[97, 60]])})


on_transformers = pytest.mark.parametrize(
    "host",
    [pytest.param("transformers/llava", marks=pytest.mark.skipif(not HAS_TRANSFORMERS_HOST, reason="no such models"))],
    indirect=True,
)


@on_transformers
@pytest.mark.parametrize(
    ("texts", "regions"),
    [
        (1, np.array([[5, 5, 40, 40]])),
        (1, torch.tensor([[5, 5, 40, 40]])),
        (1, [[5, 5, 40, 40]]),
        (1, [[[5, 5, 40, 40]]]),
        (1, BOX),
        (2, [BOX, BOX]),
        (2, [np.array([[5, 5, 40, 40]]), [BOX]]),
    ],
)
def test_a_processor_takes_what_ask_takes(parts: Parts, texts: int, regions: Any) -> None:
    asked = {"images": [WIDE] * texts, "text": ["<image> what is in <region> ?"] * texts, "return_tensors": "pt"}
    same = parts.processor(**asked, regions=[[BOX]] * texts)
    assert repr(parts.processor(**asked, regions=regions)["regions"]) == repr(same["regions"])


@on_transformers
@pytest.mark.parametrize("regions", [MASK, [MASK], [[MASK]], torch.from_numpy(MASK)[None]])
def test_a_processor_takes_masks(parts: Parts, regions: Any) -> None:
    made = parts.processor(images=[WIDE], text=["<image> what is in <region> ?"], regions=regions)
    assert np.array_equal(made["regions"][0][0].pixels, MASK)


@on_transformers
def test_a_model_that_gets_resolved_regions_says_who_resolves_them(parts: Parts) -> None:
    batch = batch_of(parts, ONE)
    for regions in ([BOX], BOX, [[[5, 5, 40, 40]]], np.array([[5, 5, 40, 40]])):
        for call in (lambda given: parts.model(**given), lambda given: generate(parts, given)):
            with pytest.raises(RegionError, match=r"^sample 0, region 0: box .* is not resolved; RegionProcessor"):
                call(batch | {"regions": regions})
