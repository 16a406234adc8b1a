"""Models of transformers' with regions, written and read: by us, by the Auto classes, and by stock transformers."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import pvit_ext
from pvit_ext.hosts.load_call import LoadCall
from pvit_ext.hosts.transformers.classes import region_class
from pvit_ext.hosts.transformers.keys import HOST_KEY
from pvit_ext.hosts.transformers.loading import dtype_of
from tests.hosts.transformers.inputs import ALL, ALL_BUT_TWO_SLOW, plain_batch, region_batch, with_regions
from tests.hosts.transformers.zoo import ZOO


def logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch).logits


@pytest.mark.parametrize(
    ("own", "device", "asked", "expected"),
    [
        (torch.bfloat16, "cuda", None, torch.bfloat16),
        (torch.float16, "cuda", None, torch.float16),
        (torch.bfloat16, "cuda", "float16", torch.float16),
        (torch.bfloat16, "cpu", None, torch.float32),
    ],
)
def test_what_overflows_in_float16_is_not_loaded_in_it(
    own: torch.dtype, device: str, asked: str | None, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = ZOO["llava"]()[0].config
    config.dtype = own
    assert dtype_of(config, LoadCall.of("folder", None, None, device, asked, {})) == expected


@pytest.fixture(params=ALL_BUT_TWO_SLOW)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any, Path]:
    """(model, processor, the folder that both were written to)."""
    model, processor = with_regions(request.param)
    model.save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    return model, processor, tmp_path


def test_auto_class_gives_the_region_class_back(saved: tuple[Any, Any, Path]) -> None:
    model, processor, folder = saved
    again = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(again) is type(model)
    assert type(again.model) is type(model.model)
    batch = region_batch(model, processor)
    assert torch.equal(logits(model, batch), logits(again, batch))
    again.save_pretrained(folder / "again")
    assert load_file(folder / "model.safetensors").keys() == load_file(folder / "again" / "model.safetensors").keys()
    assert json.loads((folder / "config.json").read_text())["architectures"] == [type(model).__mro__[2].__name__]


def test_stock_class_loads_the_folder_without_regions(saved: tuple[Any, Any, Path]) -> None:
    model, processor, folder = saved
    stock, info = type(model).__mro__[2].from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert {name.split(".")[0] for name in info["unexpected_keys"]} == {"region_encoder", "region_projector"}
    batch = plain_batch(processor)
    assert torch.equal(logits(stock, batch), logits(model, batch))


@pytest.mark.parametrize("name", ALL_BUT_TWO_SLOW)
def test_stock_folders_load_as_before(name: str, tmp_path: Path) -> None:
    model, _ = ALL[name]()
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert type(AutoModelForImageTextToText.from_config(again.config)) is type(model)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["first", "last"])
def test_auto_classes_change_whichever_is_imported_first(order: str, tmp_path: Path) -> None:
    """In a fresh interpreter; and that pvit_ext alone loads neither torch nor transformers."""
    with_regions("llava")[0].save_pretrained(tmp_path)
    ours = "import pvit_ext, sys; assert not {'torch', 'transformers'} & ({*sys.modules} if FIRST else set())"
    theirs = "from transformers import AutoModelForImageTextToText as Auto"
    lines = [ours, theirs] if order == "first" else [theirs, ours]
    load = f"model = Auto.from_pretrained({str(tmp_path)!r}); print(model.region_module.config.encoder, 'found')"
    code = "\n".join([f"FIRST = {order == 'first'}", *lines, load])
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "osprey found" in out


@pytest.mark.slow
def test_without_pvit_ext_the_auto_class_is_stock(tmp_path: Path) -> None:
    with_regions("llava")[0].save_pretrained(tmp_path)
    code = (
        "from transformers import AutoModelForImageTextToText as Auto; "
        f"print(type(Auto.from_pretrained({str(tmp_path)!r})).__module__)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "transformers.models.llava.modeling_llava"


def test_copies_and_pickles(saved: tuple[Any, Any, Path]) -> None:
    model, processor, _ = saved
    batch, pickled = region_batch(model, processor), pickle.dumps(model)  # its tower has hooks once it has run
    want = logits(model, batch)
    for twin in (copy.deepcopy(model), pickle.loads(pickled)):
        assert type(twin) is type(model)
        assert torch.equal(logits(twin, batch), want)
        with torch.no_grad():
            twin.region_projector.features.weight.zero_()
        assert not torch.equal(logits(twin, batch), want)
        assert torch.equal(logits(model, batch), want)


HUB_LAYOUT = {
    "llava": (
        ("lm_head", "language_model.lm_head"),
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.", ""),
    ),
    "qwen2_5_vl": (("model.visual.", "visual."), ("model.language_model.", "model.")),
}


@pytest.mark.parametrize("name", HUB_LAYOUT)
def test_checkpoints_in_the_layout_of_the_hub(name: str, tmp_path: Path) -> None:
    """transformers maps the keys of classes of its own only, and ours count as such."""
    from safetensors.torch import save_file

    model, _ = with_regions(name)
    model.save_pretrained(tmp_path)
    renamed = {}
    for key, value in model.state_dict().items():
        rules = () if key.startswith("region_") else HUB_LAYOUT[name]
        old = next((new + key.removeprefix(start) for start, new in rules if key.startswith(start)), key)
        renamed[old] = value.contiguous()
    save_file(renamed, tmp_path / "model.safetensors", {"format": "pt"})
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(again) is type(model)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


def test_region_modules_alone_and_load_pretrained_model(tmp_path: Path) -> None:
    stock, processor = ZOO["llava"]()
    stock.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    config = pvit_ext.RegionConfig("osprey", encoder_options={"layers": [-2], "position_grid": 8})
    tokenizer, model, found, length = pvit_ext.load_pretrained_model(
        str(tmp_path / "base"), region_config=config, device="cpu"
    )
    assert (type(found).__name__, length, found.tokenizer is tokenizer) == ("LlavaProcessor", 8192, True)
    assert type(model) is region_class(type(stock))
    pvit_ext.save_region_modules(model, tmp_path / "regions", base=str(tmp_path / "base"))
    _, again, _, _ = pvit_ext.load_pretrained_model(str(tmp_path / "regions"), device="cpu")
    batch = region_batch(model, found)
    assert torch.equal(logits(model, batch), logits(again, batch))
    again.save_pretrained(tmp_path / "whole")
    found.save_pretrained(tmp_path / "whole")
    _, whole, _, _ = pvit_ext.load_pretrained_model(str(tmp_path / "whole"), device="cpu")
    assert torch.equal(logits(model, batch), logits(whole, batch))
    assert getattr(whole.config, HOST_KEY)["token_id"] == tokenizer.convert_tokens_to_ids("<region>")
