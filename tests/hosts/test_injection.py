"""Region tokens stand where ``<region>`` stands, in order, and change no other position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from pvit_ext import Query, Region, RegionConfig
from pvit_ext.tokens.region_module import RegionModule
from tests import samples  # registers the encoder test_boxes
from tests.hosts.tiny_hosts import (
    BOX,
    MIXED,
    ON_EVERY_FAMILY,
    OSPREY,
    OTHER,
    TALL,
    WIDE,
    Parts,
    TinyHost,
    batch_of,
    logits,
    with_labels,
)

BOXES = samples.BoxesAsFeatures.name
ASKED = [
    Query(WIDE, "what is in <region> ?", [BOX]),
    Query(TALL, "<region><region> and in <region>", [OTHER, Region.box(1, 2, 30, 44), OTHER]),
    Query([TALL, WIDE], "which is larger <region> and <region> ?", [Region.box(5, 5, 60, 50, image=1), OTHER]),
]


def embeds_of(host: TinyHost, model: Any, batch: dict[str, Any]) -> Tensor:
    """What the language model gets (B, L, D)."""
    seen: list[Tensor] = []
    handle = host.language_model(model).register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["inputs_embeds"].detach()), with_kwargs=True
    )
    logits(model, batch)
    handle.remove()
    return seen[0]


def shifted(host: TinyHost, parts: Parts, batch: dict[str, Any], by: Callable[[Tensor], Tensor]) -> Tensor:
    """The same with other region tokens."""
    projector = parts.model.region_module.region_projector
    handle = projector.register_forward_hook(lambda _module, _args, out: by(out))
    found = embeds_of(host, parts.model, batch)
    handle.remove()
    return found


def rows(module: RegionModule, query: Query) -> Tensor:
    """The positions (K * S, D) of a query's regions, each computed on its own."""
    sizes, projector, found = query.image_sizes(), module.region_projector, list[Tensor]()
    assert projector.features is not None
    for region in query.regions:
        (width, height), points = sizes[region.image], region.points
        box = torch.tensor(
            [value / side for point in points for value, side in zip(point, (width, height), strict=True)]
        )
        own = [projector.features(box + token) for token in range(module.facts.tokens_per_region)]
        if projector.box_embedding is not None:
            own = [one + projector.box_embedding(box[None])[0] for one in own]
        ends = [] if projector.delimiters is None else list(projector.delimiters.weight)
        found += [*ends[:1], *own, *ends[1:]]
    return torch.stack(found).detach()


@ON_EVERY_FAMILY
@pytest.mark.parametrize(("tokens", "rest"), [(1, {}), (3, {"delimiters": True, "box_embedding": True})])
def test_positions_of_regions_hold_their_tokens(host: TinyHost, tokens: int, rest: dict[str, bool]) -> None:
    given = {"delimiters": False, **rest}
    parts = host.attached(RegionConfig(BOXES, encoder_options={"tokens": tokens}, **given))
    module = parts.model.region_module
    if module.region_projector.box_embedding is not None:
        torch.nn.init.normal_(module.region_projector.box_embedding.weight)
    batch = batch_of(parts, ASKED)
    found = embeds_of(host, parts.model, batch)
    changed = (shifted(host, parts, batch, lambda out: out + 100) != found).any(-1)  # (B, L)
    for number, query in enumerate(ASKED):
        torch.testing.assert_close(found[number][changed[number]], rows(module, query), atol=1e-5, rtol=1e-5)
        ends = changed[number].int().diff().eq(1).sum()
        assert ends == (2 if number else 1)  # the second has two regions side by side


@ON_EVERY_FAMILY
def test_a_prompt_without_regions_among_others_is_the_prompt_alone(host: TinyHost) -> None:
    parts = host.attached(RegionConfig(BOXES, delimiters=False))
    without = replace(ASKED[0], text="what is in it ?", regions=[])
    alone = embeds_of(host, parts.model, batch_of(parts, [without]))[0]
    among = embeds_of(host, parts.model, batch_of(parts, [without, *ASKED]))[0]
    among = among[: len(alone)] if host.pads_right else among[-len(alone) :]
    torch.testing.assert_close(among, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("trained", ["region modules", "all"])
def test_gradients_are_the_same_with_checkpointing_of_both_kinds(host: TinyHost, trained: str) -> None:
    """Where nothing else trains, reentrant checkpointing would train nothing without the input's gradient."""
    found = list[dict[str, Tensor]]()
    for reentrant in (None, False, True):
        parts = host.attached(replace(OSPREY, box_embedding=True))
        model = parts.model.train()
        model.requires_grad_(trained == "all")
        model.region_module.requires_grad_(True)
        if reentrant is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            model.enable_input_require_grads()
        model(**with_labels(batch_of(parts, MIXED))).loss.backward()
        found.append({name: one.grad for name, one in model.named_parameters() if one.grad is not None})
        region = [one for name, one in found[-1].items() if "region_" in name]
        assert len(region) == len(list(model.region_module.parameters()))
        assert all(gradient.any() for gradient in region)
    assert (len(region) < len(found[0])) == (trained == "all")
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, gradient in other.items():
            torch.testing.assert_close(gradient, found[0][name], atol=1e-6, rtol=1e-4)


def test_regions_change_what_the_model_says_of_their_prompt_alone(host: TinyHost) -> None:
    parts = host.attached(RegionConfig(BOXES, delimiters=False))
    moved = [ASKED[0], replace(ASKED[1], regions=[*ASKED[1].regions[1:], ASKED[1].regions[0]]), *ASKED[2:]]
    one, other = (logits(parts.model, batch_of(parts, queries)) for queries in (ASKED, moved))
    assert [torch.equal(a, b) for a, b in zip(one, other, strict=True)] == [True, False, True]
