"""The region module without any host: made, run, saved, loaded, and continued by another."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pvit_ext import Region, RegionConfig, RegionEncoder, RegionInputs
from pvit_ext.config import EncoderFacts
from pvit_ext.encoders.base import REGION_ENCODERS
from pvit_ext.regions.view import View
from pvit_ext.tokens.region_module import RegionModule
from pvit_ext.tokens.serialization import read_region_config
from pvit_ext.tokens.successor import successor
from tests.tiny import TINY_REGIONCLIP

TOWER = SimpleNamespace(hidden_size=16, num_hidden_layers=4, patch_size=14, image_size=56, num_attention_heads=2)
WIDTH = 24
TRAINS = RegionConfig("cross_attention", encoder_options={"heads": 2, "head_dim": 4})
FROZEN = RegionConfig("regionclip", encoder_options=TINY_REGIONCLIP)


def inputs() -> RegionInputs:
    torch.manual_seed(5)
    regions = [Region.box(4, 4, 30, 20), Region.box(10, 10, 50, 50)]
    return RegionInputs(
        regions, torch.tensor([0, 0]), [(56, 56)], [torch.randn(1, 16, 4, 4)], [View.resize((56, 56), (56, 56))]
    )


def made(config: RegionConfig = TRAINS, seed: int = 1, **given: Any) -> RegionModule:
    torch.manual_seed(seed)
    return RegionModule(config, WIDTH, TOWER, **given).eval()


def tokens(module: RegionModule) -> Tensor:
    with torch.no_grad():
        return module(inputs())


def test_gives_the_tokens_of_encoder_and_projector() -> None:
    module = made()
    assert {name for name, _ in module.named_children()} == {"region_encoder", "region_projector"}
    encoded = module.region_encoder(inputs())
    expected = module.region_projector(encoded, inputs().boxes_norm)
    assert torch.equal(tokens(module), expected)
    assert tokens(module).shape == (2, module.positions_per_region, WIDTH)
    assert module.positions_per_region == module.facts.tokens_per_region + 2


def test_config_and_facts_are_decided() -> None:
    module = made()
    assert module.config.delimiters is True
    assert module.config.embed_weights  # it trains
    assert module.facts == EncoderFacts(8, 4)
    assert TRAINS.delimiters is None


def test_an_encoder_of_a_file_is_built_when_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "tower.pt"
    torch.save(made(FROZEN, 2).region_encoder.state_dict(), file)
    config = RegionConfig("regionclip", str(file), encoder_options=TINY_REGIONCLIP)
    first = successor(None, config, WIDTH, TOWER)
    assert first.facts.weights_sha256 is not None
    assert list(first.parts()) == ["region_projector"]
    later = made(config, facts=first.facts)
    assert later.region_encoder is None
    with pytest.raises(ValueError, match=r"read_encoder\(\) first"):
        later(inputs())
    later.read_encoder(TOWER)
    pairs = zip(first.region_encoder.parameters(), later.region_encoder.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    torch.save(made(FROZEN, 3).region_encoder.state_dict(), file)
    with pytest.raises(ValueError, match="the checkpoint was made with"):
        made(config, facts=first.facts).read_encoder(TOWER)


def test_saved_and_loaded(tmp_path: Path) -> None:
    module, other = made(seed=1), made(seed=2)
    module.save(tmp_path, base="somewhere")
    assert read_region_config(tmp_path) == (module.config, "somewhere", module.facts)
    assert not torch.equal(tokens(module), tokens(other))
    other.load(tmp_path)
    assert torch.equal(tokens(module), tokens(other))


def test_a_view_shares_the_parts() -> None:
    module = made()
    view = RegionModule.over(module.config, module.facts, module.region_encoder, module.region_projector)
    assert torch.equal(tokens(view), tokens(module))
    assert view.state_dict().keys() == module.state_dict().keys()
    assert {id(one) for one in view.parameters()} == {id(one) for one in module.parameters()}


def test_transplant_keeps_what_fits_and_says_what_starts_anew(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pvit_ext")
    old = made()
    wider = RegionConfig("cross_attention", encoder_options={"heads": 2, "head_dim": 8})
    new = made(wider, seed=2)
    before = new.region_projector.features.weight.clone()
    new.transplant(old)
    assert torch.equal(new.region_projector.delimiters.weight, old.region_projector.delimiters.weight)
    assert torch.equal(new.region_projector.features.weight, before)
    assert "delimiters is kept" in caplog.text
    assert "features starts anew" in caplog.text


def test_adapters_of_other_tasks_start_anew(caplog: pytest.LogCaptureFixture) -> None:
    """They go by number: the adapter of one task would be that of another, and so would the router's choice."""
    config = replace(TRAINS, lion_adapters=4, lion_routing="question")
    old, new = (made(replace(config, lion_tasks=tasks), blocks=2) for tasks in ("region,image", "image,caption"))
    for parameter in old.parameters():
        parameter.data.fill_(0.5)
    with caplog.at_level(logging.WARNING):
        new.transplant(old)
    assert not any(bool((one == 0.5).all()) for part in new.lion.values() for one in part.parameters())
    said = (
        "starts anew, the old module has adapters of the tasks region, image, not adapters of the tasks image, caption"
    )
    assert all(f"{name} {said}" in caplog.text for name in ("lion_adapters", "region_router"))


AGGREGATORS = {
    "appended": "an appended aggregator of the depths 0.95,0.74,0.49",
    "added 1,0.5": "an added aggregator of the depths 1,0.5",
    "added": "an added aggregator of the depths 0.95,0.74,0.49",
}
"""How a module may be told to aggregate, and what it is then said to have."""


def aggregating(how: str, seed: int = 1) -> RegionModule:
    kind, _, depths = how.partition(" ")
    return made(RegionConfig("text", lion_aggregator=kind, lion_aggregator_depths=depths or None), seed)


@pytest.mark.parametrize(("before", "after"), [("appended", "added"), ("added 1,0.5", "added 1,0.25")])
def test_an_aggregator_that_becomes_another_one_starts_anew(
    before: str, after: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of rows that stand behind an image, or of other layers, the tensors have the same shapes."""
    old, new = aggregating(before), aggregating(after, seed=2)
    for parameter in old.parameters():
        parameter.data.fill_(0.5)
    started = new.tensors()
    new.transplant(old)
    assert all(torch.equal(value, started[key]) for key, value in new.tensors().items())
    assert f"region_aggregator starts anew, the old module has {AGGREGATORS[before]}, not an added" in caplog.text


def test_an_aggregator_of_the_same_layers_is_kept() -> None:
    old, new = aggregating("added 1,0.5"), aggregating("added 1.0,0.49", seed=2)
    new.transplant(old)
    assert all(torch.equal(value, old.tensors()[key]) for key, value in new.tensors().items())


def test_an_aggregator_of_the_same_layers_is_filled_from_a_folder(tmp_path: Path) -> None:
    saved, own = aggregating("added 1,0.5"), aggregating("added 1.0,0.49", seed=2)
    saved.save(tmp_path)
    own.load(tmp_path)
    assert all(torch.equal(value, saved.tensors()[key]) for key, value in own.tensors().items())


def test_what_a_folder_brings_is_not_said_to_start_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Adapters of other tasks, an aggregator of other layers, and a projector of another width."""
    caplog.set_level("WARNING", "pvit_ext")
    lion = {"lion_adapters": 4, "lion_routing": "question", "lion_aggregator": "added"}
    config = replace(TRAINS, **lion, lion_tasks="region,image", lion_aggregator_depths="1,0.5")
    old = made(config, blocks=2)
    wider = RegionConfig("cross_attention", encoder_options={"heads": 2, "head_dim": 8})
    others = replace(wider, **lion, lion_tasks="image,caption", lion_aggregator_depths="1,0.25")
    trained = made(others, 2, blocks=2)
    trained.save(tmp_path)
    given = {"checkpoint": tmp_path, "filled_later": True, "blocks": 2}
    new = successor(old, trained.config, WIDTH, TOWER, **given)
    new.load(tmp_path)
    assert not caplog.messages
    assert all(torch.equal(value, trained.tensors()[key]) for key, value in new.tensors().items())
    file = tmp_path / "region_modules.safetensors"  # of which a part that may be added is missing
    save_file({key: value for key, value in load_file(file).items() if "aggregator" not in key}, file)
    successor(old, trained.config, WIDTH, TOWER, **given)
    assert [one.split(",")[0] for one in caplog.messages] == ["region_aggregator starts anew"]


@pytest.mark.parametrize(("saved", "there"), [("appended", "added"), ("added 1,0.5", "added 1,0.25")])
def test_an_aggregator_is_not_filled_into_another_one(saved: str, there: str, tmp_path: Path) -> None:
    own, before = aggregating(there), aggregating(there).tensors()
    aggregating(saved, seed=2).save(tmp_path)
    with pytest.raises(ValueError, match=f"holds {AGGREGATORS[saved]}, the model has an added .* nothing was loaded"):
        own.load(tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in own.tensors().items())
    aggregating("added 1,0.5", seed=2).save(tmp_path)
    aggregating("added 1.0, 0.5").load(tmp_path)


def test_of_missing_parts_those_that_start_at_random_are_said_to(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pvit_ext")
    lion = {"lion_adapters": 4, "lion_routing": "question", "lion_tags": "hint"}
    for how, aggregator_is in (("added", "changes nothing"), ("appended", "starts at random")):
        module = made(RegionConfig("text", lion_aggregator=how, **lion), blocks=2)
        caplog.clear()
        assert not module.reset_missing(module.tensors())
        said = {one.message.split(": ")[0].split()[-1]: one.message.split(": ")[1] for one in caplog.records}
        assert said.keys() == module.added_parts.keys()
        assert said["lion_adapters"].startswith("it changes nothing until it is trained")
        assert said["region_aggregator"].startswith(f"it {aggregator_is}")
        assert all(said[name].startswith("it starts at random") for name in ("region_router", "region_hint"))


def test_encoder_without_features_has_no_tokens() -> None:
    module = made(RegionConfig("text"))
    assert module.positions_per_region == 0
    assert not module.tensors()
    with pytest.raises(ValueError, match=r"'text' gives no features \(T = 0\)"):
        module(inputs())


class Extents(RegionEncoder):
    """Width and height of a region: a frozen encoder of nothing that is learned."""

    name, tokens_per_region, feature_dim, frozen = "test_extents", 1, 2, True

    def forward(self, inputs: RegionInputs) -> Tensor:
        return (inputs.boxes_norm[:, 2:] - inputs.boxes_norm[:, :2])[:, None]


@pytest.mark.parametrize(("config", "warned"), [(FROZEN, True), (RegionConfig("test_extents"), False)])
def test_only_what_has_weights_can_lack_its_file(
    config: RegionConfig, warned: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGION_ENCODERS, "test_extents", lambda *_: Extents())
    successor(None, config, WIDTH, TOWER)
    assert ("it is random" in caplog.text) is warned
