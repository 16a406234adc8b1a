"""Weights files of RegionCLIP: every layout that loads, and all others by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pvit_ext.config import RegionConfig
from pvit_ext.encoders.regionclip.encoder import RegionCLIP, build
from pvit_ext.encoders.regionclip.weights import original_shapes
from tests.encoders.regionclip import NARROW, header, loaded, ruled_weights, tiny

# Checkpoints (golden g1e): every case that the original loads, and every one it accepts without loading


def narrow_checkpoint() -> dict[str, Tensor]:
    return ruled_weights("g1a_regionclip_narrow")


def renamed(prefix: str) -> dict[str, Tensor]:
    return {prefix + key.removeprefix("backbone."): value for key, value in narrow_checkpoint().items()}


EXTRA = {
    f"{key}.weight": torch.zeros(2) for key in ("lang_encoder.x", "teacher_backbone.conv1", "offline_backbone.conv1")
}
CLIP_TEXT = {
    key: torch.zeros(2)
    for key in ("transformer.resblocks.0.ln_1.weight", "token_embedding.weight", "positional_embedding", "logit_scale")
}
COUNTERS = {"backbone.bn1.num_batches_tracked": torch.tensor(7)}
ACCEPTED = {
    "model": lambda: {"model": narrow_checkpoint(), "iteration": 7},
    "bare": narrow_checkpoint,
    "extra": lambda: narrow_checkpoint() | EXTRA | COUNTERS,
    "visual": lambda: renamed("visual.") | CLIP_TEXT,
    "no prefix": lambda: renamed("") | EXTRA | CLIP_TEXT | COUNTERS,
    "half": lambda: {key: value.half().float() for key, value in narrow_checkpoint().items()},
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_checkpoint_layouts_that_load(case: str, narrow: RegionCLIP, tmp_path: Path) -> None:
    encoder = loaded(NARROW, ACCEPTED[case](), tmp_path)
    for key, value in narrow.state_dict().items():
        torch.testing.assert_close(
            encoder.state_dict()[key], value, rtol=2e-3 if case == "half" else 0, atol=1e-3 * (case == "half")
        )
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def without(part: str) -> dict[str, Tensor]:
    return {key: value for key, value in narrow_checkpoint().items() if part not in key}


REFUSED = {
    "other names": (lambda: renamed("vision_tower."), r"179 of 179 missing: attnpool.c_proj.bias, .*, \.\.\."),
    "missing attnpool": (lambda: without("attnpool"), "9 of 179 missing: attnpool.c_proj.bias"),
    "one missing": (lambda: without("layer3.1.bn2.running_var"), "1 of 179 missing: layer3.1.bn2.running_var"),
    "wrong grid": (
        lambda: narrow_checkpoint() | {"backbone.attnpool.positional_embedding": torch.zeros(50, 256)},
        r"1 of 179 of another shape: attnpool.positional_embedding \(50, 256\) instead of \(82, 256\)",
    ),
    "unexpected": (
        lambda: narrow_checkpoint() | {"backbone.layer1.7.conv1.weight": torch.zeros(1)},
        "1 of 179 unexpected: layer1.7.conv1.weight",
    ),
    "unexpected without prefix": (
        lambda: renamed("") | {"layer9.weight": torch.zeros(1)},
        "1 of 179 unexpected: layer9",
    ),
    "nothing": (dict, "53 of 53 missing"),
    "a list": (lambda: [torch.zeros(1)], "holds a list, not a state dict"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_checkpoints_that_do_not_fit_are_refused_whole(case: str, tmp_path: Path) -> None:
    content, message = REFUSED[case]
    encoder = build(RegionConfig(encoder_options=NARROW))
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    torch.save(content(), tmp_path / "weights.pth")
    if case == "nothing":
        message = f"{len(before)} of {len(before)} missing"
    with pytest.raises(ValueError, match=message):
        encoder.load_weights(str(tmp_path / "weights.pth"))
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_weights_are_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    for size in (0, 6):
        path.write_bytes(b"PK-cut"[:size])
        with pytest.raises(ValueError, match=f"{path.name} is damaged.*fetch it again"):
            build(RegionConfig(encoder_options=NARROW)).load_weights(str(path))


def test_true_size_layout_has_the_434_tensors_of_the_original() -> None:
    with torch.device("meta"):
        encoder = build(RegionConfig(encoder_options={"arch": "rn50x4"}))
    folded = {key: tuple(value.shape) for key, value in encoder.backbone.state_dict().items()}
    stored = {key.removeprefix("backbone."): tuple(s) for key, s in header("g1c_regionclip_rn50x4", "shapes").items()}
    assert original_shapes(folded) == stored
    assert len(stored) == 434
    with torch.device("meta"):
        rn50 = build(RegionConfig(encoder_options={"arch": "rn50"}))
    assert rn50.backbone.attnpool.positional_embedding.weight.shape == (50, 2048)
    assert rn50.feature_dim == 1024


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_folded_layout_round_trip(suffix: str, tmp_path: Path) -> None:
    encoder, other = tiny(0), tiny(1)
    path = tmp_path / f"folded.{suffix}"
    state = {key: value.contiguous() for key, value in encoder.state_dict().items()}
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    other.load_weights(str(path))
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())


class Payload:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (print, ("code of a checkpoint ran",))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*TorchScript archive:UserWarning")
def test_archives_with_code_are_refused_with_a_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "openai.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), str(script))
    torch.save({"model": Payload()}, tmp_path / "evil.pth")
    for path in (script, tmp_path / "evil.pth"):
        with pytest.raises(ValueError, match=r"torch\.save\(torch\.jit\.load\(path\)\.state_dict\(\), new_path\)"):
            tiny().load_weights(str(path))
    assert "code of a checkpoint ran" not in capsys.readouterr().out
