"""What stock LLaVA loads, we load: released configs, LoRA and projector folders, LLaVA's own calls."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pvit_ext
from pvit_ext.hosts.checkpoint_kind import find_kind
from pvit_ext.hosts.find import host_of_checkpoint
from pvit_ext.hosts.llava.classes import ByModelType
from pvit_ext.hosts.llava.host import LlavaHost
from pvit_ext.hosts.transformers.entry import TransformersModels
from tests.checkpoints import config, inputs, load
from tests.tiny import build_llava


def change(source: Path, folder: Path, **values: Any) -> Path:
    """A copy of a checkpoint with other values in its config.json; None removes one."""
    shutil.copytree(source, folder)
    found = json.loads((folder / "config.json").read_text()) | values
    (folder / "config.json").write_text(json.dumps({k: v for k, v in found.items() if v is not None}))
    return folder


def plain_logits(model: Any) -> Tensor:
    """Without regions, in LLaVA's own path."""
    arguments = {key: value for key, value in inputs(model.lm_head.weight.dtype).items() if "region" not in key}
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    with torch.no_grad():
        return model(**{**arguments, "input_ids": torch.tensor([[1, 5, -200, 9, 30]])}).logits


def stock_model(path: Path) -> Any:
    from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM as Stock

    return Stock.from_pretrained(str(path), torch_dtype=torch.float32)


def stock_lora(base: Path, folder: Path, seed: int = 3) -> tuple[Path, Any]:
    """What stock LLaVA's LoRA run writes, and the merged model that its loader makes of it."""
    from peft import LoraConfig, get_peft_model

    model = stock_model(base)
    model.config.image_aspect_ratio = "anyres"  # trained with another setting than its base
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(seed)
    whole = {}
    for name, parameter in tuned.named_parameters():
        if "lora_" in name or "mm_projector" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
        if "mm_projector" in name:
            whole[name] = parameter.data
    tuned.config.save_pretrained(folder)
    tuned.save_pretrained(folder)
    torch.save(whole, folder / "non_lora_trainables.bin")
    merged = tuned.merge_and_unload()
    merged.get_vision_tower().load_model()
    return folder, merged.eval()


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_released_checkpoints_say_llava(family: str, llava_checkpoint: Path, tmp_path: Path, caplog: Any) -> None:
    base = llava_checkpoint if family == "llama" else build_llava(tmp_path / family, family=family)
    released = change(base, tmp_path / "released", model_type="llava")
    caplog.set_level(logging.INFO, logger="pvit_ext")
    tokenizer, model, _, _ = pvit_ext.load_pretrained_model(str(released), device="cpu")
    assert type(model).__name__ == f"Llava{family.title()}ForCausalLM"
    assert f"released is LLaVA's own checkpoint of model_type 'llava', loaded as {type(model).__name__}" in caplog.text
    own_tokenizer, own, _, _ = pvit_ext.load_pretrained_model(str(base), device="cpu")
    assert torch.equal(plain_logits(model), plain_logits(own))
    assert tokenizer("seven red digits").input_ids == own_tokenizer("seven red digits").input_ids
    assert model.config.model_type == f"llava_{family}"


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "llama"},
        {"model_type": None},
        {"model_type": "llava", "architectures": ["LlamaForCausalLM"]},
        {"model_type": "llama", "architectures": None},
    ],
)
def test_whatever_the_config_calls_itself(values: dict[str, Any], llava_checkpoint: Path, tmp_path: Path) -> None:
    """Stock LLaVA's class reads any config with a warning; merged and converted checkpoints say such things."""
    folder = change(llava_checkpoint, tmp_path / "other", **values)
    assert torch.equal(plain_logits(load(folder)), plain_logits(load(llava_checkpoint)))
    trained = ByModelType.from_pretrained(str(folder))
    assert type(trained).__name__ == "LlavaLlamaForCausalLM"
    assert trained.config.model_type == "llava_llama"


def test_a_file_or_an_empty_folder_is_named(llava_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"config\.json is a file: name the folder of the checkpoint, "):
        load(llava_checkpoint / "config.json")
    with pytest.raises(OSError, match=r"has no config\.json: name the folder|not .* have a file named config\.json"):
        load(tmp_path)
    with pytest.raises(ValueError, match="device 'gpu' is not known: give cpu, cuda"):
        pvit_ext.load_pretrained_model(str(llava_checkpoint), device="gpu")


def test_a_released_checkpoint_answers(llava_checkpoint: Path, tmp_path: Path) -> None:
    released = change(llava_checkpoint, tmp_path / "released", model_type="llava", architectures=None)
    torch.manual_seed(1)
    tokenizer, model, processor, _ = pvit_ext.load_pretrained_model(str(released), region_config=config(), device="cpu")
    query = pvit_ext.Query(_image(), "What is in <region>?", [pvit_ext.Region.box(2, 3, 20, 15)])
    assert len(pvit_ext.ask(model, tokenizer, processor, [query], max_new_tokens=2)) == 1


def _image() -> Any:
    from PIL import Image

    return Image.new("RGB", (30, 20), (90, 30, 200))


def test_transformers_own_llava_is_told_apart(llava_checkpoint: Path, tmp_path: Path) -> None:
    nested = {"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"], "text_config": {}}
    other = change(llava_checkpoint, tmp_path / "hf", **nested)
    with pytest.raises(
        ValueError, match=r"transformers' own 'llava' \(LlavaForConditionalGeneration\).* the llava host takes"
    ):
        load(other)
    own = change(llava_checkpoint, tmp_path / "own", **nested, vision_config={})
    assert isinstance(host_of_checkpoint(find_kind(str(own))), TransformersModels)
    assert isinstance(host_of_checkpoint(find_kind(str(llava_checkpoint))), LlavaHost)
    unknown = change(llava_checkpoint, tmp_path / "qwen", model_type="llava", architectures=["LlavaQwenForCausalLM"])
    with pytest.raises(ValueError, match=r"'llava', architectures \['LlavaQwenForCausalLM'\] is no LLaVA checkpoint"):
        load(unknown)


def test_stock_lora_folder(llava_checkpoint: Path, tmp_path: Path, caplog: Any) -> None:
    folder, expected = stock_lora(llava_checkpoint, tmp_path / "llava-lora")
    caplog.set_level(logging.INFO, logger="pvit_ext")
    model = load(folder)
    assert f"LLaVA LoRA adapter without regions on {llava_checkpoint}" in caplog.text
    assert torch.equal(plain_logits(model), plain_logits(expected))
    assert not torch.allclose(plain_logits(model), plain_logits(load(llava_checkpoint)), atol=1e-3)
    assert model.config.image_aspect_ratio == "anyres"
    assert load(folder, region_config=config()).region_config is not None


def test_base_of_a_stock_lora_folder_is_respected(llava_checkpoint: Path, tmp_path: Path) -> None:
    folder, expected = stock_lora(llava_checkpoint, tmp_path / "lora")
    moved = tmp_path / "moved"
    shutil.copytree(llava_checkpoint, moved)
    path = folder / "adapter_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"base_model_name_or_path": "/nowhere/base"}))
    with pytest.raises(FileNotFoundError, match=r"belongs to /nowhere/base, .*\(base=\.\.\. or --base\)"):
        load(folder)
    assert torch.equal(plain_logits(load(folder, base=str(moved))), plain_logits(expected))
    path.write_text(json.dumps(values | {"base_model_name_or_path": None}))
    with pytest.raises(FileNotFoundError, match=r"holds a LoRA adapter only: .*\(base=\.\.\. or --base\)"):
        load(folder)
    next(folder.glob("adapter_model.*")).unlink()  # peft 0.4 writes a .bin file
    with pytest.raises(FileNotFoundError, match=r"lora has adapter_config\.json, but no adapter_model"):
        load(folder, base=str(moved))


def test_stock_lora_on_a_language_model_without_images(llava_checkpoint: Path, tmp_path: Path) -> None:
    """As LLaVA's own recipe makes them: Vicuna, and the projector beside the adapter."""
    from safetensors.torch import load_file, save_file

    folder, expected = stock_lora(llava_checkpoint, tmp_path / "lora")
    base = change(llava_checkpoint, tmp_path / "vicuna", model_type="llama", architectures=None, mm_vision_tower=None)
    tensors = load_file(base / "model.safetensors")
    language = {key: value for key, value in tensors.items() if "mm_projector" not in key and "vision" not in key}
    save_file(language, base / "model.safetensors", {"format": "pt"})
    assert torch.equal(plain_logits(load(folder, base=str(base))), plain_logits(expected))


def test_projector_folder(llava_checkpoint: Path, tmp_path: Path) -> None:
    """LLaVA's own pretraining writes one."""
    folder = tmp_path / "pretrain"
    folder.mkdir()
    shutil.copy(llava_checkpoint / "config.json", folder)
    model = stock_model(llava_checkpoint)
    state = {f"model.mm_projector.{key}": value + 0.1 for key, value in model.model.mm_projector.state_dict().items()}
    torch.save(state, folder / "mm_projector.bin")
    projector = load(folder, base=str(llava_checkpoint)).get_model().mm_projector.state_dict()
    assert all(torch.equal(value, state[f"model.mm_projector.{key}"]) for key, value in projector.items())


def test_a_base_without_use_is_refused(llava_checkpoint: Path) -> None:
    with pytest.raises(ValueError, match=r"which has no use for a base .*: leave out base= \(--base\)"):
        load(llava_checkpoint, base=str(llava_checkpoint))


def test_relative_base(llava_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    model = load(llava_checkpoint, region_config=config())
    monkeypatch.chdir(llava_checkpoint.parent)
    pvit_ext.save_region_modules(model, tmp_path / "modules", base=llava_checkpoint.name)
    monkeypatch.chdir(tmp_path)
    assert find_kind(str(tmp_path / "modules")).base == str(llava_checkpoint)
    pvit_ext.save_region_modules(model, tmp_path / "old", base="llava-of-old")
    with pytest.raises(FileNotFoundError, match="old belongs to llava-of-old, which is not there"):
        load(tmp_path / "old")


def test_a_missing_relative_base_may_mean_a_folder_or_the_hub(llava_checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = load(llava_checkpoint, region_config=config())
    pvit_ext.save_region_modules(model, tmp_path, base=str(llava_checkpoint))
    values = json.loads((tmp_path / "region_config.json").read_text()) | {"base": "outputs/llava-stage1"}
    (tmp_path / "region_config.json").write_text(json.dumps(values))
    both = r"neither a folder \(/.*/outputs/llava-stage1 does not exist\) nor a model on the Hugging Face hub"
    with pytest.raises(FileNotFoundError, match=rf"belongs to outputs/llava-stage1, which is not there: .*{both}"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"^outputs/llava-stage1: {both}"):
        load("outputs/llava-stage1")


def test_region_modules_beside_a_whole_checkpoint_are_ambiguous(llava_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    shutil.copytree(llava_checkpoint, folder)
    torch.manual_seed(1)
    pvit_ext.save_region_modules(load(llava_checkpoint, region_config=config()), folder, base=str(folder))
    for base in (None, str(llava_checkpoint)):
        with pytest.raises(ValueError, match=r"both holds a whole checkpoint and region modules \(model.safetensors"):
            load(folder, base=base)
    (folder / "region_config.json").unlink()
    assert find_kind(str(folder)).base is None
    assert load(folder) is not None


# LLaVA's calls


def test_calls_as_llavas_users_make_them(llava_checkpoint: Path) -> None:
    path = str(llava_checkpoint)
    model = pvit_ext.load_pretrained_model(path, None, "llava-v1.5-7b", load_8bit=False, device="cpu")[1]
    assert model.region_config is None
    named = {"model_path": path, "model_base": None, "model_name": "llava", "device_map": "cpu", "device": "cpu"}
    assert pvit_ext.load_pretrained_model(**named)[1].lm_head.weight.dtype == torch.float32
    for values in ({"dtype": "bfloat16"}, {"torch_dtype": torch.bfloat16}, {"torch_dtype": "torch.bfloat16"}):
        model = pvit_ext.load_pretrained_model(path, device="cpu", **values)[1]
        assert {model.lm_head.weight.dtype, model.get_vision_tower().dtype} == {torch.bfloat16}
    assert pvit_ext.load_pretrained_model(path, device="cpu", dtype="float16")[1].lm_head.weight.dtype == torch.float16


def test_positional_arguments_are_llavas_or_ours(llava_checkpoint: Path) -> None:
    """As LLaVA's own cli.py and its model workers call."""
    path, load = str(llava_checkpoint), pvit_ext.load_pretrained_model
    for call in (
        lambda: load(path, None, "llava", False, False, device="cpu"),
        lambda: load(path, None, "llava", False, False, None, "cpu"),
        lambda: load(path, None, None, "cpu", "float32"),
        lambda: load(path, None, None, "cpu", torch.float32, torch_dtype="float32"),
    ):
        assert call()[1].lm_head.weight.dtype == torch.float32
    with pytest.raises(ValueError, match="load_4bit and load_8bit were both asked for"):
        load(path, None, "llava", True, True, device="cpu")
    with pytest.raises(TypeError, match="device is given twice, by position and by name"):
        load(path, None, None, "cpu", device="cpu")
    with pytest.raises(TypeError, match="3 positional arguments behind the third: there may be device, dtype"):
        load(path, None, None, "cpu", None, "auto")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"load_4bit": True, "load_8bit": True}, "load_4bit and load_8bit were both asked for: give one of them"),
        ({"dtype": "int8"}, "dtype 'int8' is not known: give a torch.dtype or one of float16, bfloat16"),
        (
            {"dtype": "float16", "torch_dtype": "bfloat16"},
            r"dtype=torch\.float16 and torch_dtype=torch\.b.* mean the same",
        ),
        ({"region_config": {"encoder": "osprey"}}, "region_config is a dict: give a pvit_ext.RegionConfig"),
        ({"model_path": "elsewhere"}, "mean the same: give one of them"),
        ({"revision": "v2"}, "revision='v2' was asked for, .* download it"),
        ({"subfolder": "a"}, "subfolder='a' was asked for"),
    ],
)
def test_calls_that_cannot_be_met(llava_checkpoint: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(llava_checkpoint, **values)


def test_no_device_map_leaves_the_device(llava_checkpoint: Path) -> None:
    model = pvit_ext.load_pretrained_model(str(llava_checkpoint), device="meta", device_map=None)[1]
    assert model.device.type == "meta"


def test_no_checkpoint_named() -> None:
    with pytest.raises(ValueError, match="no checkpoint was named"):
        pvit_ext.load_pretrained_model(device="cpu")
