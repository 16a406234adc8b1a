"""What does not go beside other results on one model is said, and changes nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pvit_ext.adapters.options import field_names
from pvit_ext.adapters.saved import SavedAdapter
from pvit_ext.encoders import weights
from pvit_ext.hosts import switching
from pvit_ext.hosts.switching import Adapters
from tests.adapters.models import learned, logits, save_result, with_encoder_of
from tests.checkpoints import config, load
from tests.hosts.test_switching import change_tensors, result
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST


def drop_block(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if ".layers.1." in name]:
        del tensors[name]


def one_more(tensors: dict[str, Tensor]) -> None:
    name = sorted(tensors)[0]
    tensors[name.replace("lora_A", "lora_C")] = tensors[name].clone()


def other_shape(tensors: dict[str, Tensor]) -> None:
    name = sorted(tensors)[0]
    tensors[name] = tensors[name][:-1].clone()


BROKEN = {
    "lacks base_model.model.model.layers.0.mlp.down_proj.lora_A.weight: fetch": lambda found: found.pop(min(found)),
    "names 7 layers of which its file has no tensors, such as model.layers.1.": drop_block,
    "holds, beside the adapter, base_model.model.model.layers.0.mlp.down_proj.lora_C.weight: fetch": one_more,
    "has another shape of base_model.model.model.layers.0.mlp.down_proj.lora_A.weight: fetch": other_shape,
}


def test_a_failed_add_changes_nothing(loaded: Any, llava_checkpoint: Path, tmp_path: Path) -> None:
    _, model, _ = loaded
    good = result(model, tmp_path / "good", 2, llava_checkpoint)
    folders = {}
    for number, (said, change) in enumerate(BROKEN.items()):
        folders[said] = change_tensors(shutil.copytree(good, tmp_path / str(number)), change)
    unknown = shutil.copytree(good, tmp_path / "unknown")
    torch.save({"base_model.model.model.nothing.weight": torch.zeros(2)}, unknown / "non_lora_trainables.bin")
    folders["trained tensors that the model lacks: model.nothing.weight"] = unknown
    before, adapters = logits(model), Adapters(model)
    modules = [name for name, _ in model.named_modules()]
    for said, folder in folders.items():
        with pytest.raises(ValueError, match=re.escape(said)):
            adapters.add("one", folder)
        assert (adapters.names, adapters.active) == ([], None)
        assert torch.equal(logits(model), before), said
        assert [name for name, _ in model.named_modules()] == modules
    adapters.add("one", good)
    adapters.use("one")
    expected = logits(model)
    assert (expected - before).abs().max() > 1e-2
    for said, folder in folders.items():
        with pytest.raises(ValueError, match=re.escape(said)):
            adapters.add("two", folder)
        assert (adapters.names, adapters.active) == (["one"], "one")
        assert torch.equal(logits(model), expected), said
    adapters.add("two", good)
    assert (adapters.names, adapters.active) == (["one", "two"], "one")
    assert torch.equal(logits(model), expected)
    adapters.use("two")
    assert torch.equal(logits(model), expected)


def test_a_model_that_carries_an_adapter(loaded: Any, llava_checkpoint: Path, tmp_path: Path) -> None:
    _, model, _ = loaded
    one, two = (result(model, tmp_path / name, seed, llava_checkpoint) for name, seed in (("one", 2), ("two", 3)))
    on_one = result(model, tmp_path / "on-one", 4, one)
    merged = load(one)
    with pytest.raises(ValueError, match=rf"two was trained without it: load {llava_checkpoint}, not {one}"):
        Adapters(merged).add("two", two)
    with pytest.raises(ValueError, match=rf"on-one was trained on {one} and its adapter: load {one}, not"):
        Adapters(model).add("on_one", on_one)
    Adapters(merged).add("on_one", on_one)
    with pytest.raises(ValueError, match="the model has adapters already"):
        Adapters(merged).add("on_one", on_one)


@pytest.mark.skipif(not HAS_TRANSFORMERS_HOST, reason="transformers is too old for its own host")
def test_a_failed_add_leaves_a_processor_as_it_was(tmp_path: Path) -> None:
    from tests.hosts.transformers.zoo import ZOO
    from tests.training.test_transformers_host import with_regions

    model, processor = ZOO["llava"]()
    model.name_or_path = str(tmp_path)
    good = save_result(learned(with_regions("llava")[0]), tmp_path / "good", tmp_path)
    bad = change_tensors(shutil.copytree(good, tmp_path / "bad"), lambda found: found.pop(min(found)))
    kept, vocabulary, own = type(processor), processor.tokenizer.get_vocab(), processor.tokenizer
    written = own("a <region> b").input_ids
    adapters = Adapters(model, processor)
    with pytest.raises(ValueError, match="lacks"):
        adapters.add("one", bad)
    assert (type(processor), processor.tokenizer) == (kept, own)
    assert getattr(processor, "pvit_regions", None) is None
    assert own.get_vocab() == vocabulary
    assert own("a <region> b").input_ids == written
    adapters.add("one", good)
    assert processor.pvit_regions is not None
    assert own.convert_tokens_to_ids("<region>") == model.base_model.region_host.token_id


def test_what_peft_cannot_be_blamed_for(
    loaded: Any, llava_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model, _ = loaded
    one = result(model, tmp_path / "one", 2, llava_checkpoint)

    def failing(error: Exception) -> Callable[..., None]:
        def fail(*args: Any, **kwargs: Any) -> None:
            raise error

        return fail

    monkeypatch.setattr(SavedAdapter, "__init__", failing(torch.cuda.OutOfMemoryError("of memory")))
    for add in (lambda: Adapters(model).add("one", one), lambda: load(one)):
        with pytest.raises(torch.cuda.OutOfMemoryError, match=r"^of memory$"):
            add()
    stock = load(llava_checkpoint)
    monkeypatch.setattr(switching, "attach", failing(RuntimeError("size mismatch")))
    with pytest.raises(RuntimeError, match="size mismatch"):
        Adapters(stock).add("one", one)


def test_a_result_is_named_once_in_what_is_said_of_it(loaded: Any, llava_checkpoint: Path, tmp_path: Path) -> None:
    _, model, _ = loaded
    one = result(model, tmp_path / "one", 2, llava_checkpoint)
    other = load(llava_checkpoint, region_config=config(box_embedding=True))
    with pytest.raises(ValueError, match=r"^[^:]*one has other region modules than the model") as found:
        Adapters(other).add("one", one)
    assert str(found.value).count(str(one)) == 1
    assert "than the model: box_embedding False, not True, encoder_options " in str(found.value)
    assert not {"delimiters", "RegionConfig"} & set(re.findall(r"\w+", str(found.value))), "what differs, alone"
    torch.save({"base_model.model.model.norm.weight": torch.zeros(2)}, one / "non_lora_trainables.bin")
    with pytest.raises(ValueError, match=r"one: trained tensors of other shapes than the model's: model\.norm\."):
        Adapters(model).add("one", one)


def test_the_adapters_file_is_read_once(
    loaded: Any, llava_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, model, _ = loaded
    one, read = result(model, tmp_path / "one", 2, llava_checkpoint), list[str]()
    if not (one / "adapter_model.safetensors").is_file():
        pytest.skip("this peft writes adapter_model.bin")
    kept = weights.load_file
    monkeypatch.setattr(weights, "load_file", lambda path, *given: read.append(Path(path).stem) or kept(path, *given))
    Adapters(model).add("one", one)
    assert read.count("adapter_model") == 1
    read.clear()
    load(one)
    assert read.count("adapter_model") == 0, "peft reads it"


def test_names_that_modules_of_torch_have_themselves(loaded: Any, llava_checkpoint: Path, tmp_path: Path) -> None:
    _, model, _ = loaded
    adapters, folder = Adapters(model), result(model, tmp_path / "one", 2, llava_checkpoint)
    for name in ("keys", "training", "weight"):
        adapters.add(name, folder)
    for name in ("", "a.b", "a b"):
        with pytest.raises(ValueError, match="is no name: give letters"):
            adapters.add(name, folder)
    adapters.use("training")
    assert (logits(model) - logits(with_encoder_of(model, load(folder)))).abs().max() < 2e-5


@pytest.mark.skipif("target_parameters" not in field_names("LORA"), reason="unknown to this peft")
def test_fields_that_go_beside_none(loaded: Any, llava_checkpoint: Path, tmp_path: Path) -> None:
    _, model, _ = loaded
    tokens = result(model, tmp_path / "tokens", 2, llava_checkpoint, lora_options='{"trainable_token_indices": [1]}')
    tensors = '{"target_parameters": ["layers.0.mlp.up_proj.weight"]}'
    parameters = result(model, tmp_path / "parameters", 2, llava_checkpoint, lora_options=tensors)
    one = result(model, tmp_path / "one", 2, llava_checkpoint)
    adapters = Adapters(model)
    adapters.add("tokens", tokens)
    for folder, said in ((one, "another with trainable_token_indices goes"), (parameters, "merge one of them")):
        with pytest.raises(ValueError, match=said):
            adapters.add("other", folder)
    assert adapters.names == ["tokens"]
