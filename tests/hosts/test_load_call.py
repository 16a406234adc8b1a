"""A call of ``load_pretrained_model`` that would load something else than it says is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import pvit_ext
from pvit_ext.adapters.quantization import Quantization
from pvit_ext.hosts.load_call import LoadCall, name_positional

FP4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}


@pytest.fixture(autouse=True)
def without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quantization, "__post_init__", lambda self: None)


def call(**given: Any) -> LoadCall:
    return LoadCall.of("result", None, None, "cpu", None, given)


def result(folder: Path, bits: dict[str, Any] | None) -> Path:
    """A folder with what a run's config.json says of the base under its adapter."""
    (folder / "config.json").write_text(json.dumps({"quantization_config": bits}))
    return folder


@pytest.mark.parametrize(
    ("trained", "given", "said"),
    [
        ({"load_in_8bit": True}, {"load_4bit": True}, r"in 8 bits, and the model is in 4 bits \(nf4\).*load_8bit=True"),
        (
            FP4,
            {"load_4bit": True},
            r"4 bits \(fp4, full scales\), and the model is in 4 bits \(nf4\).*quantization_config=.*fp4",
        ),
        (FP4, {"load_8bit": True}, "and the model is in 8 bits: load the model in the same bits"),
    ],
)
def test_an_adapter_is_not_put_on_another_rounding(
    trained: dict[str, Any], given: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"was trained on a base .*{said}.*, or merge"):
        call(**given).for_adapter(result(tmp_path, trained))


def test_an_adapter_is_put_on_the_rounding_of_its_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pvit_ext")
    folder = result(tmp_path, {"load_in_8bit": True})
    for given in ({}, {"load_8bit": True}, {"quantization_config": {"load_in_8bit": True}}):
        assert call(**given).for_adapter(folder).quantization == Quantization(8)
    assert "rounding" not in caplog.text
    assert call(load_4bit=True).for_adapter(result(tmp_path, None)).quantization == Quantization(4)
    assert "was trained on a base in its dtype, and the model is in 4 bits (nf4): its answers are off" in caplog.text


def positional(*values: Any, **given: Any) -> Any:
    return name_positional("runs/result", values, {"region_config": None, "device": None, "dtype": None, **given})


def test_the_name_of_an_encoder_is_no_model_name_of_llavas() -> None:
    """It was taken for one, and nothing was attached."""
    for call in (
        lambda: positional("osprey"),
        lambda: LoadCall.of("result", None, "osprey", "cpu", None, {}),
        lambda: pvit_ext.load_pretrained_model("nowhere", None, "osprey"),
        lambda: pvit_ext.load_pretrained_model("nowhere", region_config="osprey"),
    ):
        with pytest.raises(ValueError, match=r'\'osprey\' names a region encoder.*RegionConfig\("osprey"\)'):
            call()
    with pytest.raises(ValueError, match=r"region_config='llava-v1.5' is a text: give a pvit_ext.RegionConfig"):
        pvit_ext.load_pretrained_model("nowhere", region_config="llava-v1.5")


def test_the_third_argument_is_a_config_or_llavas_model_name() -> None:
    config = pvit_ext.RegionConfig("osprey")
    assert positional(config, "cpu") == {"region_config": config, "device": "cpu", "dtype": None}
    assert positional("llava-v1.5-7b", True)["region_config"] is None
    assert positional(None)["region_config"] is None
    assert name_positional("runs/osprey", ("osprey",), {}) == {}  # as LLaVA's get_model_name_from_path makes it
    with pytest.raises(TypeError, match="region_config is given twice"):
        positional(config, region_config=config)


def test_no_path_beside_llavas_model_name() -> None:
    assert name_positional(None, ("name",), {}) == {}
    with pytest.raises(ValueError, match="no checkpoint was named: give its folder or hub id first"):
        pvit_ext.load_pretrained_model(None, None, "name")
