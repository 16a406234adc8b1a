"""``--lora_bias``: biases of the language model train beside an adapter, and those of nothing else."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pvit_ext.adapters.layers import seeing_modules
from pvit_ext.adapters.lora import PEFT_PREFIX, read_adapter
from pvit_ext.adapters.options import field_names
from pvit_ext.adapters.tensors import plain_name
from pvit_ext.hosts.switching import Adapters
from tests.adapters.models import learned, logits, save_result, with_encoder_of
from tests.checkpoints import config, load
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST
from tests.tiny import build_llava

OFT = '{"peft_type": "OFT", "oft_block_size": 16, "bias": "%s"}'


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA whose attention has biases, as Qwen's."""
    return build_llava(tmp_path_factory.mktemp("biased") / "tiny", attention_bias=True)


@pytest.fixture(scope="module")
def base(biased: Path) -> Any:
    model = load(biased, region_config=config())
    model.name_or_path = str(biased)
    return model


def trained_beside(model: Any) -> set[str]:
    """Names of what trains and is no adapter, as the base has them."""
    names = (name for name, one in model.named_parameters() if one.requires_grad)
    plain = {plain_name(name.removeprefix(PEFT_PREFIX)) for name in names}
    return {name for name in plain if name.endswith("bias")}


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_the_language_models_biases_alone_train(base: Any, bias: str) -> None:
    attention = {f"model.layers.{block}.self_attn.{part}_proj.bias" for block in (0, 1) for part in "qkvo"}
    assert trained_beside(learned(base, lora_bias=bias)) == attention
    chosen = learned(base, lora_bias=bias, lora_options='{"target_modules": ["q_proj"]}')
    assert trained_beside(chosen) == (attention if bias == "all" else {one for one in attention if "q_proj" in one})


@pytest.mark.skipif(not HAS_TRANSFORMERS_HOST, reason="transformers is too old for its own host")
@pytest.mark.parametrize("given", [{"lora_bias": "all"}, {"lora_options": OFT % "all"}], ids=["lora", "oft"])
def test_a_model_of_transformers_keeps_its_tower_frozen(given: dict[str, Any]) -> None:
    from tests.training.test_transformers_host import with_regions

    model = learned(with_regions("qwen2_5_vl")[0], **given)
    names = trained_beside(model)
    assert names
    assert all(re.fullmatch(r".*language_model\.layers\.\d+\.self_attn\.[qkv]_proj\.bias", name) for name in names), (
        names
    )
    assert not [
        one for part in seeing_modules(model.get_base_model()) for one in part.parameters() if one.requires_grad
    ]


def result(base: Any, folder: Path, seed: int, **given: Any) -> tuple[Path, Any]:
    """A LoRA result with biases of its own, and what the model says that wrote it."""
    wrapped = learned(base, **given)
    torch.manual_seed(seed)
    for name, one in wrapped.named_parameters():
        if one.requires_grad and name.endswith("bias"):
            one.data += 0.1 * torch.randn(one.shape)
    return save_result(wrapped, folder, base.name_or_path), logits(wrapped)


KINDS = [
    {"lora_bias": "all", "lora_options": '{"target_modules": ["q_proj"]}'},  # biases of layers without an adapter too
    {"lora_options": OFT % "oft_only"},
]


@pytest.mark.parametrize("given", KINDS, ids=["all", "oft_only"])
def test_results_with_biases_reload_and_stand_beside_each_other(
    base: Any, biased: Path, tmp_path: Path, given: dict[str, Any]
) -> None:
    if "OFT" in given["lora_options"] and "use_rslora" not in field_names("LORA"):
        pytest.skip("unknown to this peft")
    made = {name: result(base, tmp_path / name, seed, **given) for name, seed in (("one", 2), ("two", 3))}
    if "lora_bias" in given:
        made["plain"] = result(base, tmp_path / "plain", 4, **given | {"lora_bias": "none"})
    assert not [name for name in read_adapter(tmp_path / "one") if name.endswith("bias")]
    model, before = copy.deepcopy(base), logits(base)
    for name, (folder, expected) in made.items():
        alone = with_encoder_of(base, load(folder))
        assert (logits(alone) - expected).abs().max() < 2e-5, name
    adapters = Adapters(model)
    for name, (folder, _) in made.items():
        adapters.add(name, folder)
        adapters.use(name)  # the next one is added while this one's biases are in place
    for name in ("two", None, *made, "one"):
        adapters.use(name)
        expected = before if name is None else made[name][1]
        assert (logits(model) - expected).abs().max() < 2e-5, name
    assert (made["one"][1] - made["two"][1]).abs().max() > 1e-2


def test_biases_in_the_file_of_the_adapter_as_llava_writes_them(base: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    folder, expected = result(base, tmp_path / "ours", 2, lora_bias="all")
    others = torch.load(folder / "non_lora_trainables.bin")
    moved = {name: others.pop(name) for name in list(others) if name.endswith("bias")}
    torch.save(others, folder / "non_lora_trainables.bin")
    layer = (
        ".base_layer.bias" if hasattr(learned(base).get_model().layers[0].self_attn.q_proj, "base_layer") else ".bias"
    )
    named = {name.removesuffix(".bias") + layer: value for name, value in moved.items()}
    save_file({**read_adapter(folder), **named}, folder / "adapter_model.safetensors", {"format": "pt"})
    before, model = logits(base), copy.deepcopy(base)
    assert (logits(with_encoder_of(base, load(folder))) - expected).abs().max() < 2e-5
    adapters = Adapters(model)
    for number, shape in enumerate([(1,), (7,)]):  # torch would spread the first over all
        wrong = shutil.copytree(folder, tmp_path / str(number))
        tensors = {**read_adapter(folder), min(named): torch.ones(shape)}
        save_file(tensors, wrong / "adapter_model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match=r"trained tensors of other shapes than the model's: .*\.bias"):
            adapters.add("wrong", wrong)
        assert (adapters.names, adapters.active) == ([], None)
    adapters.add("ours", folder)
    assert (logits(model) - before).abs().max() < 2e-5
    adapters.use("ours")
    assert (logits(model) - expected).abs().max() < 2e-5
