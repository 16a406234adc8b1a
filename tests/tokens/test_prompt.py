"""Markup against PVIT's own parser (g6a); token ids against raw SentencePiece and LLaVA's own functions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pvit_ext.prompt import bind_regions, parse_regions
from pvit_ext.regions.region import Region, RegionError

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens_prompt" / "g6a.json").read_text())
# What the original does with these is not repeated; each has its own test below.
REFUSED = {"three coords", "nested", "lower"}


def boxes(regions: list[Region]) -> list[list[float]]:
    return [[value for point in region.points for value in point] for region in regions]


@pytest.mark.parametrize("case", GOLDENS["cases"], ids=lambda case: case["in"][:24])
def test_markup_gives_the_boxes_of_the_original(case: dict[str, Any]) -> None:
    if any(case["in"].startswith(name) for name in REFUSED):
        with pytest.raises(RegionError, match="line 7: "):
            parse_regions(case["in"], "line 7")
        return
    text, regions = parse_regions(case["in"])
    assert boxes(regions) == case["boxes"]
    assert all(region.normalized and region.image == 0 for region in regions)
    assert text.count("<region>") == len(case["boxes"])
    assert "<Region>" not in text


def test_markup_is_replaced_where_it_stands() -> None:
    text = "<image>\nIs <Region> <L12>\n<L24><L101><L777></Region> (<Region>[.5,0.25, 1.0 ,1]</Region>)?"
    assert parse_regions(text)[0] == "<image>\nIs <region> (<region>)?"
    assert boxes(parse_regions(text)[1]) == [[0.012, 0.024, 0.101, 0.777], [0.5, 0.25, 1.0, 1.0]]


def test_bins_outside_the_tags_are_text() -> None:
    """The original replaces them too when the same bins occur inside tags: a placeholder more than boxes."""
    text, regions = parse_regions("<L1><L2><L3><L4> or <Region><L1><L2><L3><L4></Region>")
    assert text == "<L1><L2><L3><L4> or <region>"
    assert len(regions) == 1


@pytest.mark.parametrize("bins", ["<L1500><L2000><L9999><L1>", "<L900><L600><L600><L300>", "<L5><L5><L5><L9>"])
def test_bad_values_are_refused_when_the_image_is_known(bins: str) -> None:
    _, (region,) = parse_regions(f"<Region>{bins}</Region>")
    with pytest.raises(RegionError, match="sample 3"):
        region.resolve((64, 48), "sample 3")


@pytest.mark.parametrize(
    "text",
    [
        "<Region><L1><L2><L3></Region>",
        "<Region><L12345><L2><L3><L4></Region>",
        "<Region><L-1><L2><L3><L4></Region>",
        "<Region>[0.1, 0.2, 0.3]</Region>",
        "<Region>[0.1, 0.2, 0.3, nan]</Region>",
        "<Region>[0.1, 0.2, 0.3, 0.4, 0.5]</Region>",
        "<Region></Region>",
        "<Region>the dog</Region>",
        "<Region> left open",
        "closed </Region> only",
        "<Region><Region><L1><L2><L3><L4></Region></Region>",
        "<region><L1><L2><L3><L4></region>",
        "<Region><region></Region>x</Region>",
    ],
)
def test_malformed_markup_names_the_sample(text: str) -> None:
    with pytest.raises(RegionError, match=r"^train.json line 12: .*write <Region>"):
        parse_regions(f"{text} and <Region><L1><L2><L3><L4></Region>", "train.json line 12")


def test_explicit_and_inline_regions_keep_the_order_of_their_placeholders() -> None:
    first, last = Region.point(3, 4), Region.box(1, 2, 3, 4)
    text, regions = bind_regions("<region> near <Region><L0><L0><L500><L500></Region> or <region>", [first, last])
    assert text == "<region> near <region> or <region>"
    assert regions[0] is first
    assert regions[2] is last
    assert boxes(regions[1:2]) == [[0.0, 0.0, 0.5, 0.5]]


@pytest.mark.parametrize(("text", "given_"), [("no placeholder", 1), ("<region>", 0), ("<region><region>", 3)])
def test_count_mismatch_is_an_error_with_both_counts(text: str, given_: int) -> None:
    with pytest.raises(RegionError, match=rf"^q 5: {text.count('<region>')} <region> .* but {given_} regions"):
        bind_regions(text, [Region.point(1, 1)] * given_, "q 5")


def test_inline_markup_needs_no_explicit_region() -> None:
    with pytest.raises(RegionError, match=r"0 <region> placeholders \(1 more written inline\) but 1 regions given"):
        bind_regions("<Region><L1><L2><L3><L4></Region>", [Region.point(1, 1)])


@given(st.text(alphabet="<Region>/L123 []., \n\u2581é", max_size=60))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_any_text_parses_or_raises_region_error(text: str) -> None:
    try:
        clean, regions = parse_regions(text)
    except RegionError:
        return
    assert "<Region>" not in clean
    assert clean.count("<region>") == text.count("<region>") + len(regions)


def test_fineeval_instructions_parse_and_resolve() -> None:
    from pvit_ext.regions.image import load_image

    if not os.environ.get("PVIT_EXT_DATA"):
        pytest.skip("PVIT_EXT_DATA is not set")
    folder = Path(os.environ["PVIT_EXT_DATA"]) / "fineeval"
    rows = [json.loads(line) for line in (folder / "instructions.jsonl").read_text().splitlines()]
    found = []
    for number, row in enumerate(rows, 1):
        text, regions = bind_regions(row["instruction"], sample=f"line {number}")
        size = load_image(folder / "images" / row["image"]).size
        resolved = [region.resolve(size, f"line {number}") for region in regions]
        assert text.count("<region>") == len(resolved)
        found.append(len(resolved))
    assert (len(found), sum(found), sum(count > 0 for count in found)) == (130, 142, 115)
