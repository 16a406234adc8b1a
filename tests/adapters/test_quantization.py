"""A language model in 4 or 8 bits: what is quantised, what an adapter learns on it, and what is said of a merge."""

from __future__ import annotations

import copy
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pvit_ext
from pvit_ext import cli
from pvit_ext.adapters.layers import find_all_linear_names
from pvit_ext.adapters.quantization import Quantization, is_quantized
from pvit_ext.training.stages import parameter_table
from tests.checkpoints import config, load
from tests.hosts import tiny_hosts
from tests.hosts.tiny_hosts import HAS_TRANSFORMERS_HOST
from tests.tiny import build_llava
from tests.training import runs

pytest.importorskip("bitsandbytes")
pytest.importorskip("transformers", minversion="5.0", reason="older ones quantise on CUDA alone")


NOT_QUANTISED = ("vision", "projector", "region", "lora_", "lion_")


@pytest.fixture(scope="module")
def llava_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of widths that bitsandbytes can pack for a CPU: multiples of 64."""
    return build_llava(tmp_path_factory.mktemp("llava") / "tiny", hidden_size=64, intermediate_size=128)


def quantized(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if is_quantized(parameter)}


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_of_the_language_model_alone_are_quantised(llava_checkpoint: Path, bits: int) -> None:
    whole = load(llava_checkpoint)
    model = load(llava_checkpoint, region_config=config(), **{f"load_{bits}bit": True})
    linear = {name for name, one in whole.model.layers.named_modules() if isinstance(one, nn.Linear)}
    assert quantized(model) == {f"model.layers.{name}.weight" for name in linear}
    sees = [*model.region_module.parameters(), *model.get_vision_tower().parameters()]
    assert {parameter.dtype for parameter in (*sees, *model.get_model().mm_projector.parameters())} == {torch.float32}
    ids = torch.tensor([[1, 5, 9, 30, 77]])
    moved = (model(input_ids=ids).logits - whole(input_ids=ids).logits).abs().max()
    assert 0 < moved < (0.5 if bits == 4 else 0.05)


def test_what_bitsandbytes_says_of_each_layer_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        Quantization(8).options(torch.float32, "cpu", [])
    for _layer in range(2):
        for dtype in ("of one", "of another"):
            logging.getLogger("bitsandbytes.autograd._functions").warning("inputs will be cast, %s", dtype)
    assert [record.getMessage() for record in caplog.records] == [
        "inputs will be cast, of one", "inputs will be cast, of another",
    ]  # fmt: skip


@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("host", ["llava/llama", *["transformers/llava"] * HAS_TRANSFORMERS_HOST])
def test_lions_parts_in_a_whole_checkpoint_stay_as_they_were(
    llava_checkpoint: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, host: str, bits: int
) -> None:
    """Their layers are of the sizes that bitsandbytes packs."""
    made: Any = tiny_hosts.make(host, tmp_path_factory)
    if host.startswith("llava"):
        made._folder = llava_checkpoint
    made.folder()
    lion: dict[str, Any] = {"lion_adapters": 64, "lion_routing": "question", "lion_aggregator": "added"}
    parts = made.attached(replace(tiny_hosts.OSPREY, **lion, lion_tags="hint"))
    again = tiny_hosts.load(tiny_hosts.save(made, parts, tmp_path / "whole"), **{f"load_{bits}bit": True}).model
    blocks = [name for name in quantized(again) if ".layers." in name]
    assert len(blocks) == len(quantized(again)) >= 14
    assert not [name for name in blocks if any(part in name for part in NOT_QUANTISED)]
    tensors, found = parts.model.region_module.tensors(), again.region_module.tensors()
    assert sum("lion_adapters" in name for name in tensors) >= 20
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], one) for name, one in tensors.items())


def test_the_table_counts_weights_and_not_their_bytes(llava_checkpoint: Path) -> None:
    def total(model: Any) -> int:
        lines = parameter_table(model, {"vision tower": model.get_vision_tower()}).splitlines()[1:]
        counts = [re.search(r" ([\d,]+) +[\d,]+  [a-z ]+$", line) for line in lines]
        return sum(int(found[1].replace(",", "")) for found in counts if found is not None)

    given: dict[str, Any] = {"region_config": config()}
    assert total(load(llava_checkpoint, load_4bit=True, **given)) == total(load(llava_checkpoint, **given))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"load_4bit": True, "load_8bit": True}, "load_4bit and load_8bit were both asked for"),
        ({"quantization_config": {"quant_method": "gptq"}}, "only 4 or 8 bits of bitsandbytes load"),
    ],
)  # fmt: skip
def test_calls_that_cannot_be_met(llava_checkpoint: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load(llava_checkpoint, **given)


@pytest.mark.parametrize(("given", "said"), [((5,), "in 5 bits was asked for: give 4 or 8"), ((4, "nf8"), "'nf8'")])
def test_there_are_four_bits_and_eight(given: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Quantization(*given)


def test_without_bitsandbytes(llava_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs bitsandbytes: pip install 'pvit-ext\[qlora\]'"):
        load(llava_checkpoint, load_4bit=True)


@pytest.fixture(params=["llava", *["transformers"] * HAS_TRANSFORMERS_HOST])
def start(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains a tiny model of one host with flags, and returns the trainer."""
    given, checkpoint, data = runs.of_host(request, tmp_path)

    def run(**own: Any) -> Any:
        kept = {"stage": "finetune", "lora_enable": True, "lora_r": 4, "lora_dropout": 0.0, "max_steps": 4, **own}
        with monkeypatch.context() as patch:
            return given.run(patch, given.flags(checkpoint, data, tmp_path / "out", logging_steps=1, **kept))

    return run


BY_TASK = {"region_lion_adapters": 4, "region_lion_routing": "question", "allow_no_gradient": True}


@pytest.mark.parametrize(
    "own",
    [
        {"bits": 4, "lora_method": "dora"},
        {"bits": 8},
        pytest.param({"bits": 4, **BY_TASK}, marks=pytest.mark.slow),
        pytest.param({"bits": 8, **BY_TASK}, marks=pytest.mark.slow),
    ],
    ids=["4", "8", "4-by-task", "8-by-task"],
)
def test_an_adapter_learns_on_quantised_weights(
    start: Any, tmp_path: Path, own: dict[str, Any], caplog: Any, capsys: Any
) -> None:
    trainer = start(**own)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    names = quantized(trainer.model)
    assert len(names) >= 14
    assert not [name for name in names if any(part in name for part in NOT_QUANTISED)]
    batch = getattr(trainer, "batch_of_all", None)  # of LLaVA's data, which are read while its names are rebound
    if batch is None:
        batch = trainer.data_collator([trainer.train_dataset[number] for number in range(4)])
    with caplog.at_level(logging.INFO, logger="pvit_ext"):
        _, model, _, _ = pvit_ext.load_pretrained_model(str(tmp_path / "out"), device="cpu")
    assert f"was trained on a base in {own['bits']} bits" in caplog.text
    assert {name.replace("base_model.model.", "") for name in names} == quantized(model)
    if hasattr(model, "get_vision_tower"):
        model.get_vision_tower().half().float()
    with torch.no_grad():
        expected, found = (one.eval()(**copy.deepcopy(batch)).logits for one in (trainer.model, model))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    caplog.clear()
    assert cli.main(["merge", str(tmp_path / "out"), "--out", str(tmp_path / "merged")]) == 0
    assert f"was trained on a base in {own['bits']} bits" in caplog.text
    assert "logits of a text move by" in caplog.text
    merged = pvit_ext.load_pretrained_model(str(tmp_path / "merged"), device="cpu")[1]
    assert not quantized(merged)
    assert find_all_linear_names(merged)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"bits": 5}, "in 5 bits was asked for"),
        ({"bits": 4, "lora_enable": False}, "--bits 4: quantised weights do not train"),
        ({"bits": 4, "lora_method": "olora"}, r"olora is refused with --bits 4 \(16 goes\)"),
        ({"bits": 8, "lora_method": "pissa"}, "pissa is refused with --bits 8"),
        ({"bits": 8, "lora_method": "dora"}, "dora is refused with --bits 8"),
        ({"bits": 4, "quant_type": "int4"}, "'int4': give nf4 or fp4"),
    ],
)
def test_flags_that_do_not_go_with_few_bits(start: Any, own: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        start(**own)
