"""What config.json keeps of regions: choices and facts, in a format with a version; earlier and later ones."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from pvit_ext.config import EncoderFacts, RegionConfig, regions_from_json, regions_to_json

CHOSEN = RegionConfig("osprey", "osprey.pt", True, "mlp2x_gelu", True, 2, False, "v1", {"position_grid": 8}).decided()
FACTS = EncoderFacts(1024, 2, "ab" * 32)
OLD = {
    **{"encoder": "regionclip", "weights": "r.pth", "weights_sha256": None, "embed_weights": False},
    **{"projector": "linear", "box_embedding": True, "cross_layers": 0, "delimiters": True, "conv_version": "v1"},
    **{"encoder_options": {"arch": "rn50"}, "feature_dim": 1024, "tokens_per_region": 1},
}
"""As written before formats were counted."""


def test_roundtrip() -> None:
    values = json.loads(json.dumps(regions_to_json(CHOSEN, FACTS)))
    assert values["format"] == 1
    assert regions_from_json(values) == (CHOSEN, FACTS)


def test_options_of_lion_are_written_where_they_are_used() -> None:
    assert not any(key.startswith("lion_") for key in regions_to_json(CHOSEN, FACTS))
    chosen = replace(CHOSEN, lion_adapters=8, lion_tasks="a,b", lion_routing="task")
    values = json.loads(json.dumps(regions_to_json(chosen, FACTS)))
    assert (values["lion_adapters"], values["lion_tasks"], "lion_routing" in values) == (8, "a,b", False)
    assert regions_from_json(values) == (chosen, FACTS)
    unused = {"lion_adapters": 0, "lion_tasks": "region,image", "lion_routing": "task"}  # as the first version wrote
    assert regions_from_json({**OLD, **unused}) == regions_from_json(OLD)


def test_what_was_written_before_formats_loads() -> None:
    config, facts = regions_from_json(OLD)
    assert (
        config
        == RegionConfig(
            "regionclip",
            "r.pth",
            box_embedding=True,
            delimiters=True,
            conv_version="v1",
            encoder_options={"arch": "rn50"},
        ).decided()
    )
    assert facts == EncoderFacts(1024, 1)
    assert regions_from_json({"encoder": "text"}) == (RegionConfig("text").decided(), None)


def test_options_of_two_configs_are_no_common_object() -> None:
    one, other = RegionConfig("x").decided(), RegionConfig("x").decided()
    assert one.encoder_options == {}
    assert one.encoder_options is not other.encoder_options


@pytest.mark.parametrize("found", [2, 0, "1.1", None])
def test_unknown_formats_are_refused(found: Any) -> None:
    with pytest.raises(ValueError, match=rf"region modules of format {found!r}.*up to 1.*pip install --upgrade"):
        regions_from_json({**OLD, "format": found, "a key of its time": 1})


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown RegionConfig keys \['pooling'\]"):
        regions_from_json({**OLD, "pooling": "mean"})


def test_frozen() -> None:
    for given, name in ((CHOSEN, "encoder"), (FACTS, "feature_dim")):
        with pytest.raises(FrozenInstanceError):
            setattr(given, name, None)


def test_defaults_are_decided_by_the_encoder() -> None:
    config = RegionConfig("x")
    decided = RegionConfig(
        "x", None, False, "linear", box_embedding=False, cross_layers=0, encoder_options={}, lion_adapters=0
    )
    assert config.resolved(3) == replace(decided, delimiters=True)
    assert config.resolved(0) == replace(decided, delimiters=False)
    assert config.resolved(3).resolved(3) == config.resolved(3)
    lion = replace(config, lion_adapters=4, lion_aggregator="added").decided()
    assert (lion.lion_tasks, lion.lion_routing) == ("region,image", "task")
    assert lion.lion_aggregator_depths == "0.95,0.74,0.49"
    assert replace(config, delimiters=False).resolved(3).delimiters is False
    assert replace(config, delimiters=False).resolved(0).delimiters is False


def test_what_stays_of_the_config_before() -> None:
    before = RegionConfig(
        "a", "a.pt", True, "mlp2x_gelu", box_embedding=True, cross_layers=2, conv_version="v1", delimiters=False,
        encoder_options={"tokens": 8},
    )  # fmt: skip
    after = RegionConfig("b").continuing(before, 1)
    assert (after.box_embedding, after.cross_layers, after.conv_version) == (True, 2, "v1")
    assert (after.projector, after.delimiters) == ("mlp2x_gelu", False)
    assert (after.encoder_options, after.weights, after.embed_weights) == (None, None, None)
    assert RegionConfig("a").continuing(before, 1) == before
    without = RegionConfig("a").continuing(before, 0)
    assert without == RegionConfig("a", "a.pt", True, conv_version="v1", encoder_options={"tokens": 8})
    assert RegionConfig("b", cross_layers=1, conv_version="mpt").continuing(before, 1).cross_layers == 1
    text = RegionConfig("text").continuing(before, 0)
    assert text == RegionConfig("text", conv_version="v1")


BEFORE = RegionConfig(
    "osprey", "osprey.pt", True, "mlp2x_gelu", True, 2, False, "v1", {"position_grid": 8}, 4, "caption,ground", "hint",
    "question", "appended", "1,0.5",
)  # fmt: skip
"""All that a model can have, and nothing of it the default."""
SAID: dict[str, Any] = {
    "encoder": "regionclip", "weights": "", "embed_weights": False, "projector": "linear", "box_embedding": False,
    "cross_layers": 0, "delimiters": True, "conv_version": "", "encoder_options": {}, "lion_tasks": "region,image",
    "lion_tags": "plain", "lion_routing": "task", "lion_aggregator": "added",
    "lion_aggregator_depths": "0.95,0.74,0.49",
}  # fmt: skip
"""Of each option the default, where one can say it, or the smallest value."""


@pytest.mark.parametrize("name", [item.name for item in fields(RegionConfig) if item.name != "lion_adapters"])
def test_what_is_said_is_done_though_it_is_the_default(name: str) -> None:
    said = RegionConfig(**{name: SAID[name]})
    done = None if name == "weights" else SAID[name]
    assert getattr(said.continuing(BEFORE, 2).resolved(2), name) == done != getattr(BEFORE, name)
    again = replace(replace(RegionConfig("osprey"), delimiters=True), **{name: SAID[name]})  # replace says nothing more
    assert getattr(again.continuing(BEFORE, 2).resolved(2), name) == done


def test_what_is_not_said_stays() -> None:
    kept = ("box_embedding", "cross_layers", "conv_version", "projector", "delimiters")
    lion = [item.name for item in fields(RegionConfig) if item.name.startswith("lion_")]
    after = RegionConfig("text").continuing(BEFORE, 2)
    assert [getattr(after, name) for name in (*kept, *lion)] == [getattr(BEFORE, name) for name in (*kept, *lion)]


def test_adapters_do_not_end() -> None:
    with pytest.raises(ValueError, match=r"lion_adapters is 0, and the model has adapters of width 4.*start from the"):
        RegionConfig(lion_adapters=0).continuing(BEFORE)
    assert RegionConfig(lion_adapters=0).continuing(RegionConfig().decided()).resolved(2).lion_adapters == 0


@pytest.mark.parametrize("given", [{"lion_tasks": ["a", "b"]}, {"lion_adapters": "4"}, {"box_embedding": "no"}])
def test_a_value_of_another_type_is_no_config_after_another(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"region config '{next(iter(given))}' is .* got "):
        RegionConfig(**given).continuing(BEFORE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lion_tasks": "region,image"}, "lion_tasks 'region,image' cannot apply without adapters: give lion_adapters"),
        ({"lion_routing": "task"}, "lion_routing 'task' cannot apply without adapters"),
        ({"lion_aggregator_depths": "0.95,0.74,0.49"}, "cannot apply without an aggregator: give lion_aggregator too"),
        ({"lion_tags": ""}, "lion_tags is ''"),
        ({"lion_aggregator": ""}, "lion_aggregator is ''"),
        ({"lion_adapters": 4, "lion_routing": ""}, "lion_routing is ''"),
    ],
)
def test_an_option_that_cannot_apply_is_refused_though_it_is_the_default(given: dict[str, Any], message: str) -> None:
    for config in (RegionConfig(**given), RegionConfig(**given).continuing(RegionConfig().decided(), 2)):
        with pytest.raises(ValueError, match=message):
            config.resolved(2)


def test_options_of_lion_that_are_not_named_stay() -> None:
    before = RegionConfig(
        lion_adapters=4, lion_tasks="caption,ground", lion_aggregator="added", lion_aggregator_depths="1,0.6,0.2"
    )
    for given in ({}, {"lion_adapters": 4}, {"lion_aggregator": "added"}, {"lion_adapters": 8}):
        after = RegionConfig(**given).continuing(before, 1)
        assert after == replace(before, **given), given
    assert RegionConfig(lion_tasks="a,b").continuing(before, 1).lion_tasks == "a,b"
    other_order = ",".join(reversed(before.lion_tasks.split(",")))
    for order in (other_order, other_order.replace(",", ", ")):
        assert RegionConfig(lion_adapters=8, lion_tasks=order).continuing(before, 1).lion_tasks == before.lion_tasks


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (-1, "cross_layers is -1: how many blocks, 0 or more"),
        ("2", "a whole number or null, got '2'"),
        (1.5, "got 1.5"),
    ],
)
def test_a_number_of_cross_layers_that_there_cannot_be(layers, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegionConfig("osprey", cross_layers=layers).resolved(2)
