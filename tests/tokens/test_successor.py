"""What region modules that replace others keep of them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pvit_ext import RegionConfig
from pvit_ext.tokens.successor import same_features, successor
from tests.tiny import TINY_REGIONCLIP
from tests.tokens.test_region_module import FROZEN, TOWER, TRAINS, WIDTH, made, tokens


def test_a_successor_keeps_the_encoder_of_the_same_name_and_options() -> None:
    old = made()
    same = successor(old, TRAINS, WIDTH, TOWER)
    assert same.region_encoder is old.region_encoder
    assert torch.equal(tokens(same), tokens(old))
    other = successor(old, RegionConfig("cross_attention", encoder_options={"heads": 1, "head_dim": 8}), WIDTH, TOWER)
    assert other.region_encoder is not old.region_encoder


def test_a_projector_of_another_encoder_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Equal widths are no sign that it reads these features."""
    text = "features was learned with another encoder ('cross_attention') of the same width: train it anew"
    old = made(replace(TRAINS, encoder_options={"heads": 4, "head_dim": 4}))
    successor(old, replace(old.config, delimiters=False), WIDTH, TOWER)
    assert text not in caplog.text
    successor(old, RegionConfig("osprey"), WIDTH, TOWER)
    assert text in caplog.text


def test_a_weights_file_elsewhere_gives_the_same_features(tmp_path: Path) -> None:
    files = [tmp_path / "tower.pt", tmp_path / "moved.pt"]
    torch.save(made(FROZEN, 2).region_encoder.state_dict(), files[0])
    shutil.copy(*files)
    old = successor(None, replace(FROZEN, weights=str(files[0])), WIDTH, TOWER)
    assert same_features(old, successor(old, replace(FROZEN, weights=str(files[1])), WIDTH, TOWER))
    assert not same_features(old, successor(old, replace(FROZEN, weights=""), WIDTH, TOWER))


SAME = RegionConfig("cross_attention", lion_tags="hint")
"""The encoder of :data:`TRAINED` by its name alone."""
TRAINED = replace(TRAINS, projector="mlp2x_gelu", delimiters=False, box_embedding=True, cross_layers=1)


def test_a_successor_keeps_what_is_not_said() -> None:
    old = made(TRAINED)
    new = successor(old, SAME, WIDTH, TOWER)
    assert new.config == replace(old.config, lion_tags="hint")
    before, after = old.tensors(), new.tensors()
    assert after.keys() - before.keys() == {"region_hint.weight"}
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("said", "differ"),
    [
        ({"encoder_options": {"heads": 1, "head_dim": 4}}, "encoder_options"),
        ({"encoder_options": {}}, "encoder_options"),
        ({"projector": "linear"}, "projector"),
        ({"delimiters": True}, "delimiters"),
        ({"box_embedding": False}, "box_embedding"),
    ],
)
def test_what_is_said_wins(said: dict[str, Any], differ: str, caplog: pytest.LogCaptureFixture) -> None:
    old = made(TRAINED)
    new = successor(old, replace(SAME, **said), WIDTH, TOWER)
    changed = replace(old.config, lion_tags="hint", **said)
    assert new.config == changed != replace(old.config, lion_tags="hint")
    anew = f"region encoder 'cross_attention' starts anew: encoder_options {changed.encoder_options}, were "
    assert (anew + str(old.config.encoder_options) in caplog.text) == (differ == "encoder_options")
    assert (new.region_encoder is old.region_encoder) == (differ != "encoder_options")


def test_another_encoder_keeps_the_kind_of_projector() -> None:
    """But nothing of the other encoder: options and weights are its own."""
    new = successor(made(TRAINED), FROZEN, WIDTH, TOWER)
    kept = ("projector", "delimiters", "box_embedding", "cross_layers")
    assert all(getattr(new.config, name) == getattr(TRAINED, name) for name in kept)
    assert (new.config.encoder_options, new.config.embed_weights) == (FROZEN.encoder_options, False)


@pytest.mark.parametrize(("first", "second"), [(TRAINED, RegionConfig("text")), (RegionConfig("text"), TRAINS)])
def test_parts_of_tokens_end_with_them(first: RegionConfig, second: RegionConfig) -> None:
    """What an encoder without tokens has is no choice of anybody's either: the next one starts with its usual parts."""
    old = made(first)
    new = successor(old, second, WIDTH, TOWER)
    assert new.config == made(second).config


def test_the_weights_file_of_the_same_encoder_stays(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.pt", "b.pt")]
    for seed, file in enumerate(files):
        torch.save(made(FROZEN, seed).region_encoder.state_dict(), file)
    old = successor(None, replace(FROZEN, weights=str(files[0])), WIDTH, TOWER)
    same = successor(old, RegionConfig("regionclip", embed_weights=True), WIDTH, TOWER)
    assert same.region_encoder is old.region_encoder
    assert same.config == replace(old.config, embed_weights=True)
    assert same.facts == old.facts
    other = successor(same, RegionConfig("regionclip", str(files[1])), WIDTH, TOWER)
    assert (other.config.encoder_options, other.config.embed_weights) == (FROZEN.encoder_options, True)
    assert other.facts.weights_sha256 not in (None, old.facts.weights_sha256)
    none = successor(same, RegionConfig("regionclip", ""), WIDTH, TOWER)
    assert (none.config.weights, none.facts.weights_sha256) == (None, None)
    torch.save(made(FROZEN, 9).region_encoder.state_dict(), files[0])
    with pytest.raises(ValueError, match="sha256"):  # the file that is kept has to be the one that was
        successor(old, RegionConfig("regionclip", encoder_options={**TINY_REGIONCLIP, "output_dim": 12}), WIDTH, TOWER)


def test_what_was_not_said_is_named_where_it_does_not_fit(tmp_path: Path) -> None:
    narrow = {**TINY_REGIONCLIP, "output_dim": 12}
    files = [tmp_path / name for name in ("a.pt", "narrow.pt")]
    for config, file in zip((FROZEN, replace(FROZEN, encoder_options=narrow)), files, strict=True):
        torch.save(made(config).region_encoder.state_dict(), file)
    old = successor(None, replace(FROZEN, weights=str(files[0])), WIDTH, TOWER)
    other = RegionConfig("regionclip", encoder_options=narrow)
    with pytest.raises(ValueError, match=r"does not fit .*; weights is not said .* weights='' for none"):
        successor(old, other, WIDTH, TOWER)
    with pytest.raises(ValueError, match=r"does not fit .*; encoder_options is not said .* encoder_options={} for"):
        successor(old, RegionConfig("regionclip", str(files[1])), WIDTH, TOWER)
    for said in (replace(other, weights=str(files[1])), replace(other, weights="")):
        assert successor(old, said, WIDTH, TOWER).facts.feature_dim == 12
    with pytest.raises(ValueError, match="does not fit") as found:
        successor(old, replace(other, weights=str(files[0])), WIDTH, TOWER)
    assert "is not said" not in str(found.value)
    files[0].unlink()
    with pytest.raises(FileNotFoundError, match=r"; weights is not said .* weights='' for none"):
        successor(old, other, WIDTH, TOWER)


def test_a_stored_config_without_a_file_takes_none_over(tmp_path: Path) -> None:
    """Its tensors follow from the folder; under the old module's file they would belong into no checkpoint."""
    torch.save(made(FROZEN, 2).region_encoder.state_dict(), tmp_path / "tower.pt")
    old = successor(None, replace(FROZEN, weights=str(tmp_path / "tower.pt")), WIDTH, TOWER)
    stored = made(FROZEN, 3)
    new = successor(old, stored.config, WIDTH, TOWER, filled_later=True)
    assert new.config == stored.config
    assert new.parts().keys() == stored.parts().keys() == {"region_projector", "region_encoder"}


def test_a_weights_file_by_its_stored_name_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored relative, because it lay beside the checkpoint and not in the working folder; now it lies there too."""
    old = made(replace(TRAINS, weights="start.pt"))
    (tmp_path / "start.pt").touch()
    monkeypatch.chdir(tmp_path)
    assert successor(old, old.config, WIDTH, TOWER).region_encoder is old.region_encoder
