"""``AutoProcessor`` after ``import pvit_ext``: region processors of folders that name regions, else stock ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor, PretrainedConfig

import pvit_ext
from pvit_ext.hosts.transformers.processor import RegionProcessorMixin
from tests.hosts.transformers.inputs import region_batch, with_regions
from tests.hosts.transformers.zoo import ZOO


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_a_folder_with_regions(name: str, tmp_path: Path) -> None:
    model, processor = with_regions(name)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is type(processor)
    one, other = region_batch(model, processor), region_batch(model, loaded)
    assert all(torch.equal(one[key], other[key]) for key in one if isinstance(one[key], torch.Tensor))


def test_a_folder_whose_model_alone_names_regions(tmp_path: Path) -> None:
    model, processor = with_regions("llava")
    model.save_pretrained(tmp_path)
    stock = ZOO["llava"]()[1]
    stock.tokenizer = processor.tokenizer
    stock.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, RegionProcessorMixin)
    assert loaded.pvit_regions == processor.pvit_regions


def test_a_model_that_got_another_encoder_since(tmp_path: Path) -> None:
    model, processor = with_regions("llava")
    processor.save_pretrained(tmp_path)
    pvit_ext.attach(model, pvit_ext.RegionConfig("replay", encoder_options={"grid": 2}))
    model.save_pretrained(tmp_path)
    assert AutoProcessor.from_pretrained(tmp_path).pvit_regions.config.encoder == "replay"


def test_what_says_which_files_are_read_holds_for_regions_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ZOO["llava"]()[1].save_pretrained(tmp_path)
    seen: list[dict[str, Any]] = []
    stock = PretrainedConfig.get_config_dict.__func__  # type: ignore[attr-defined]
    keep = classmethod(lambda cls, path, **given: (seen.append(given), stock(cls, path, **given))[1])
    monkeypatch.setattr(PretrainedConfig, "get_config_dict", keep)
    AutoProcessor.from_pretrained(tmp_path, local_files_only=True)
    assert seen
    assert all(given.get("local_files_only") for given in seen)


def test_a_stock_folder(tmp_path: Path) -> None:
    _, processor = ZOO["llava"]()
    processor.save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)) is type(processor)


@pytest.mark.slow
def test_whichever_is_imported_first(tmp_path: Path) -> None:
    _, processor = with_regions("llava")
    processor.save_pretrained(tmp_path)
    for first, second in (("pvit_ext", "transformers"), ("transformers", "pvit_ext")):
        code = (
            f"import {first}, {second}; "
            f"print(type(transformers.AutoProcessor.from_pretrained({str(tmp_path)!r})).__module__)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "pvit_ext.hosts.transformers.processor"


def test_the_third_of_load_pretrained_model(tmp_path: Path) -> None:
    model, processor = with_regions("llava")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    _, _, loaded, _ = pvit_ext.load_pretrained_model(str(tmp_path), device="cpu")
    assert isinstance(loaded, RegionProcessorMixin)
