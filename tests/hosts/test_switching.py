"""Several LoRA results on one model answer, each when it is asked for, as they do alone."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import pvit_ext
from pvit_ext.adapters.options import field_names
from pvit_ext.adapters.quantization import Quantization
from pvit_ext.hosts.llava.chat import conversation
from pvit_ext.hosts.switching import Adapters
from tests.adapters.models import learned, logits, save_result, with_encoder_of
from tests.checkpoints import load, randomize
from tests.hosts.llava.test_checkpoint_kinds import plain_logits, stock_lora
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST

HAS_METHODS = "use_rslora" in field_names("LORA")
"""peft 0.4 of LLaVA's pins has plain LoRA alone."""
RSLORA = "rslora" if HAS_METHODS else "lora"


def result(model: Any, folder: Path, seed: int, base: Path, **given: Any) -> Path:
    """A LoRA result with region modules and a projector of its own."""
    other = randomize(copy.deepcopy(model), seed)
    for parameter in other.get_model().mm_projector.parameters():
        parameter.data += 0.01 * seed
    wrapped = learned(other, **given)
    for part in (wrapped.get_model().mm_projector, wrapped.region_module.region_projector):
        part.requires_grad_(True)
    return save_result(wrapped, folder, base)


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """Change the file with an adapter's tensors; peft 0.4 writes a .bin."""
    path = next(folder.glob("adapter_model.*"))
    safe = path.suffix == ".safetensors"
    tensors = load_file(path) if safe else torch.load(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"}) if safe else torch.save(tensors, path)
    return folder


def test_each_answers_as_it_does_alone(loaded: Any, llava_checkpoint: Path, tmp_path: Path) -> None:
    _, model, _ = loaded
    folders = {
        "one": result(model, tmp_path / "one", 2, llava_checkpoint),
        "two": result(model, tmp_path / "two", 3, llava_checkpoint, lora_method=RSLORA),
        "three": result(model, tmp_path / "three", 4, llava_checkpoint, lora_options='{"target_modules": ["q_proj"]}'),
    }
    expected = {name: logits(with_encoder_of(model, load(folder))) for name, folder in folders.items()}
    before = logits(model)
    adapters = Adapters(model)
    for name, folder in folders.items():
        adapters.add(name, folder)
    assert adapters.names == ["one", "two", "three"]
    for name in ("two", None, "one", "three", "two"):
        adapters.use(name)
        assert adapters.active == name
        if name is None:
            assert torch.equal(logits(model), before)
        else:
            assert (logits(model) - expected[name]).abs().max() < 2e-5, name
    assert (expected["one"] - expected["two"]).abs().max() > 1e-2
    query = pvit_ext.Query(Image.new("RGB", (48, 32), "red"), "What is <region>?", [pvit_ext.Region.box(2, 3, 20, 15)])
    assert isinstance(pvit_ext.ask(model, loaded[0], loaded[2], [query], max_new_tokens=2)[0], str)


def test_a_folder_of_llavas_own(llava_checkpoint: Path, tmp_path: Path) -> None:
    folder, expected = stock_lora(llava_checkpoint, tmp_path / "lora")
    model = load(llava_checkpoint)
    before = plain_logits(model)
    adapters = Adapters(model)
    adapters.add("stock", folder)
    assert torch.equal(plain_logits(model), before)
    adapters.use("stock")
    assert (plain_logits(model) - plain_logits(expected)).abs().max() < 2e-5


def test_what_cannot_stand_beside_others(loaded: Any, llava_checkpoint: Path, tmp_path: Path) -> None:
    _, model, _ = loaded
    adapters = Adapters(model)
    with pytest.raises(ValueError, match="no adapter 'one' was added; there are none"):
        adapters.use("one")
    with pytest.raises(ValueError, match="no adapter to put beside others"):
        adapters.add("base", llava_checkpoint)
    adapters.add("one", result(model, tmp_path / "one", 2, llava_checkpoint))
    with pytest.raises(ValueError, match="'one' is taken: give a name"):
        adapters.add("one", tmp_path / "one")


def trained_with(folder: Path, version: str | None) -> Path:
    """Write another template into a result, as LLaVA's trainer does."""
    path = folder / "region_config.json"
    values = json.loads(path.read_text())
    values["pvit_ext"]["conv_version"] = version
    path.write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("of_base", [None, "v1", "stock"])
def test_each_is_asked_with_the_template_of_its_training(
    of_base: str | None, loaded: Any, llava_checkpoint: Path, tmp_path: Path
) -> None:
    tokenizer, model, _ = loaded
    given = {"one": "llava_llama_2", "two": "v1", "three": None}
    folders = {
        name: trained_with(result(model, tmp_path / name, seed, llava_checkpoint), version)
        for seed, (name, version) in enumerate(given.items())
    }
    if of_base == "stock":
        model = load(llava_checkpoint)
    else:
        model.config.pvit_ext = {**model.config.pvit_ext, "conv_version": of_base}
    own = None if of_base == "stock" else of_base
    from llava.conversation import conv_templates

    adapters = Adapters(model)
    for name in given:
        adapters.add(name, folders[name])
        assert model.region_config.conv_version == own, "the base is active"
    for name in ("two", "one", "three", None, "one", "two"):
        adapters.use(name)
        version = own if name is None else given[name] or own
        assert model.region_config.conv_version == version
        expected = conv_templates[version or "vicuna_v1"]
        assert conversation(model, None, None, tokenizer).system == expected.system
    assert model.region_module.config.conv_version == "v1", "what is saved of a result says its own"


@pytest.mark.skipif("pissa" not in str(LoraConfig.__annotations__["init_lora_weights"]), reason="unknown to this peft")
def test_methods_that_cannot_stand_beside_others(loaded: Any, llava_checkpoint: Path, tmp_path: Path) -> None:
    _, model, _ = loaded
    pissa = result(model, tmp_path / "pissa", 2, llava_checkpoint, lora_method="pissa")
    vera = result(model, tmp_path / "vera", 3, llava_checkpoint, lora_options='{"peft_type": "VERA", "r": 4}')
    one = result(model, tmp_path / "one", 2, llava_checkpoint)
    adapters = Adapters(model)
    with pytest.raises(ValueError, match="pissa changes the weights under it"):
        adapters.add("pissa", pissa)
    adapters.add("one", one)
    with pytest.raises(ValueError, match="VERA does not go beside LORA; merge one of them"):
        adapters.add("vera", vera)


@pytest.mark.parametrize("tuner", [one for one in ("LOHA", "VERA") if one in str([*PEFT_TYPE_TO_CONFIG_MAPPING])])
def test_two_results_of_another_tuner(tuner: str, loaded: Any, llava_checkpoint: Path, tmp_path: Path) -> None:
    _, model, _ = loaded
    options = json.dumps({"peft_type": tuner})
    folders = {
        name: result(model, tmp_path / name, seed, llava_checkpoint, lora_options=options)
        for name, seed in (("one", 2), ("two", 3))
    }
    adapters = Adapters(model)
    for name, folder in folders.items():
        adapters.add(name, folder)
    for name, folder in folders.items():
        adapters.use(name)
        assert (logits(model) - logits(with_encoder_of(model, load(folder)))).abs().max() < 2e-5, name


@pytest.mark.skipif("kasa_config" not in field_names("LORA"), reason="unknown to this peft")
def test_a_field_that_changes_the_weights_under_it(loaded: Any, llava_checkpoint: Path, tmp_path: Path) -> None:
    _, model, _ = loaded
    kasa = result(model, tmp_path / "kasa", 2, llava_checkpoint, lora_options='{"kasa_config": {}}')
    before = logits(model)
    adapters = Adapters(model)
    with pytest.raises(ValueError, match="kasa_config changes the weights under it"):
        adapters.add("kasa", kasa)
    assert torch.equal(logits(model), before)


def test_a_result_of_few_bits_needs_a_model_of_these(
    loaded: Any, llava_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    _, model, _ = loaded
    few = {"quantization_config": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}}
    folder = result(model, tmp_path / "few", 2, llava_checkpoint)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | few))
    monkeypatch.setattr(Quantization, "__post_init__", lambda self: None)  # bitsandbytes may be missing
    adapters = Adapters(model)
    with pytest.raises(
        ValueError, match=r"few was trained on a base in 4 bits \(fp4, full scales\), and the model is in its dtype"
    ):
        adapters.add("few", folder)
    whole = result(model, tmp_path / "whole", 2, llava_checkpoint)
    model.config.quantization_config = {"load_in_8bit": True}
    adapters.add("whole", whole)
    assert "whole was trained on a base in its dtype, and the model is in 8 bits" in caplog.text


@pytest.mark.skipif(not HAS_TRANSFORMERS_HOST, reason="transformers is too old for its own host")
def test_on_a_model_of_transformers(tmp_path: Path) -> None:
    from tests.training.test_transformers_host import with_regions

    model, processor = with_regions("llava")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "base")
    ids = torch.tensor([[1, 5, 9, 14, 7]])
    folders = {}
    for seed, name in ((2, "one"), (3, "two")):
        wrapped = learned(randomize(copy.deepcopy(model), seed), lora_r=seed)
        folders[name] = save_result(wrapped, tmp_path / name, tmp_path / "base")
    _, base, regions, _ = pvit_ext.load_pretrained_model(str(tmp_path / "base"), device="cpu")
    adapters = Adapters(base, regions)
    for name, folder in folders.items():
        adapters.add(name, folder)
    for name in ("one", "two", "one"):
        adapters.use(name)
        alone = pvit_ext.load_pretrained_model(str(folders[name]), device="cpu")[1]
        with torch.no_grad():
            torch.testing.assert_close(base(input_ids=ids).logits, alone(input_ids=ids).logits, rtol=0, atol=2e-5)
        for own, other in zip(base.region_module.parameters(), alone.region_module.parameters(), strict=True):
            assert torch.equal(own, other)
    with pytest.raises(ValueError, match=r"carries the adapter of .*one, and .*two was trained without it"):
        Adapters(alone, regions).add("two", folders["two"])
    adapters.use(None)
    before = base(input_ids=ids).logits
    change_tensors(folders["two"], lambda tensors: tensors.pop(sorted(tensors)[0]))
    with pytest.raises(ValueError, match=r"lacks base_model\.model\..*lora_A\.weight"):
        adapters.add("three", folders["two"])
    assert torch.equal(base(input_ids=ids).logits, before)
    with pytest.raises(ValueError, match=r"lacks base_model\.model\..*lora_A\.weight"):
        pvit_ext.load_pretrained_model(str(folders["two"]), device="cpu")


def test_the_base_that_a_result_names_is_compared_with_the_model(
    loaded: Any, llava_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, model, _ = loaded
    same = shutil.copytree(llava_checkpoint, tmp_path / "same")
    other = shutil.copytree(llava_checkpoint, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({key: value + 0.1 for key, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    folders = {name: result(model, tmp_path / name, 2, base) for name, base in (("copied", same), ("wrong", other))}
    adapters = Adapters(model)
    adapters.add("copied", folders["copied"])
    assert "right only if" not in caplog.text
    with pytest.raises(ValueError, match=r"was trained on .*other, whose weights are others than those of the model"):
        adapters.add("wrong", folders["wrong"])
    assert adapters.names == ["copied"]
    with pytest.raises(ValueError, match="the model has adapters already"):
        Adapters(model).add("again", folders["copied"])
    shutil.rmtree(same)
    adapters.add("moved", folders["copied"])
    assert "right only if both hold the same weights" in caplog.text
